# The guest of the lab: one boot sector, no operating system, no interrupts, no stack.
# It fills RAM (zero pages are not sent by a migration), says so on the first serial line, then
# writes one word in each page of its working set, over and over. Beside that it keeps a beat by
# its time stamp counter: at each one it writes a running number to the second serial line, if it
# is to tick; at every 256th it looks whether the first line has a command for it.
#
# Given by --defsym: FILL_START, FILL_END, FILL_STEP, WORK_START, WORK_END (bytes); DELAY and
# STORM_DELAY (loop turns after each page written, at least 1); CHUNK (turns between two looks at
# the clock); BEAT (TSC cycles); TICK (0 or 1).

        .set    LINE1, 0x3f8
        .set    LINE1_STATUS, 0x3fd
        .set    LINE2, 0x2f8

        .code16
        .globl  _start
_start: cli
        xorw    %ax, %ax
        movw    %ax, %ds
        inb     $0x92, %al              # A20 on, without a reset
        orb     $0x02, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $protected

        .code32
protected:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss

        movl    $FILL_START, %edi
        movl    $0x9e3779b9, %eax
fill:   imull   $1664525, %eax, %eax
        addl    $1013904223, %eax
        movl    %eax, (%edi)
        addl    $FILL_STEP, %edi
        cmpl    $FILL_END, %edi
        jb      fill

        movw    $LINE1, %dx
        movb    $'F', %al
        outb    %al, %dx

.if TICK || WORK_END > WORK_START
# %edi: next page, %ebx: turns after a page, %esi: of these still to do, %ebp: TSC at the last
# beat, %esp: number of beats.
        movl    $DELAY, %ebx
        xorl    %esp, %esp
        xorl    %ebp, %ebp
again:  movl    $WORK_START, %edi
dirty:
.if WORK_END > WORK_START
        incl    (%edi)
.endif
        movl    %ebx, %esi
chunk:  movl    $CHUNK, %ecx
        cmpl    %ecx, %esi
        jae     enough
        movl    %esi, %ecx
enough: subl    %ecx, %esi
wait:   decl    %ecx
        jnz     wait
        rdtsc
        movl    %eax, %ecx
        subl    %ebp, %ecx
        cmpl    $BEAT, %ecx
        jb      next
        movl    %eax, %ebp
        incl    %esp
        movl    %esp, %eax
.if TICK
        movw    $LINE2, %dx
        outb    %al, %dx
.endif
        testb   %al, %al
        jnz     next
        movw    $LINE1_STATUS, %dx
        inb     %dx, %al
        testb   $1, %al
        jz      next
        movw    $LINE1, %dx
        inb     %dx, %al
        movl    $DELAY, %ebx
        cmpb    $'S', %al
        jne     next
        movl    $STORM_DELAY, %ebx
next:   testl   %esi, %esi
        jnz     chunk
        addl    $4096, %edi
        cmpl    $WORK_END, %edi
        jb      dirty
        jmp     again
.else
idle:   hlt
        jmp     idle
.endif

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # code, flat 4 GiB
        .quad   0x00cf92000000ffff      # data, flat 4 GiB
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .org    510
        .word   0xaa55
