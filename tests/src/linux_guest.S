# The only program of the Linux guest, its init. It says on the first serial line that it is there, by
# the port itself: the kernel has no driver of the line. Then it sleeps for ever, and its children, if
# it has any, write a page and nap, over and over.
#
# Given by --defsym: WORKERS (children).

        .set    LINE1, 0x3f8
        .set    WORK, 4 << 20           # bytes that each child writes to
        .set    SYS_PAUSE, 34
        .set    SYS_NANOSLEEP, 35
        .set    SYS_FORK, 57
        .set    SYS_IOPL, 172

        .globl  _start
_start: movl    $SYS_IOPL, %eax
        movl    $3, %edi
        syscall
        movw    $LINE1, %dx
        movb    $'F', %al
        outb    %al, %dx

        movl    $WORKERS, %r12d
more:   testl   %r12d, %r12d
        jz      sleep
        decl    %r12d
        movl    $SYS_FORK, %eax
        syscall
        testl   %eax, %eax
        jz      worker
        jmp     more

sleep:  movl    $SYS_PAUSE, %eax
        syscall
        jmp     sleep

worker: leaq    area(%rip), %rbx
        leaq    WORK(%rbx), %r13
page:   incl    (%rbx)
        movl    $SYS_NANOSLEEP, %eax
        leaq    nap(%rip), %rdi
        xorl    %esi, %esi
        syscall
        addq    $4096, %rbx
        cmpq    %r13, %rbx
        jb      page
        jmp     worker

        .balign 8
nap:    .quad   0, 500000               # 0.5 ms

        .bss
        .balign 4096
area:   .skip   WORK
