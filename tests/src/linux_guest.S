# The only program of the Linux guest, its init. It says on the first serial line that it is there, by
# the port itself: the kernel has no driver of the line. Then it sleeps for ever; or it ticks as the
# guest without a system does (guest.S), and its children write pages and nap, one on each other CPU.
#
# Given by --defsym: WORKERS (children; with -1 it sleeps), BEAT (TSC cycles).

        .set    LINE1, 0x3f8
        .set    LINE2, 0x2f8
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

.if WORKERS < 0
sleep:  movl    $SYS_PAUSE, %eax
        syscall
        jmp     sleep
.else
        movl    $WORKERS, %r12d
more:   testl   %r12d, %r12d
        jz      clock
        decl    %r12d
        movl    $SYS_FORK, %eax
        syscall
        testl   %eax, %eax
        jnz     more

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

clock:  xorl    %ebx, %ebx              # number of beats
        xorl    %ebp, %ebp              # TSC at the last one
wait:   rdtsc
        movl    %eax, %ecx
        subl    %ebp, %ecx
        cmpl    $BEAT, %ecx
        jb      wait
        movl    %eax, %ebp
        incl    %ebx
        movl    %ebx, %eax
        movw    $LINE2, %dx
        outb    %al, %dx
        jmp     wait

        .balign 8
nap:    .quad   0, 500000               # 0.5 ms

        .bss
        .balign 4096
area:   .skip   WORK
.endif
