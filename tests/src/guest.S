# The guest of the lab: one boot sector, no operating system, no interrupts.
# It fills RAM (zero pages are not sent by a migration), says so on the serial line, then
# writes one word in each page of its working set, over and over.
#
# Given by --defsym: FILL_START, FILL_END, WORK_START, WORK_END (bytes), DELAY (loop turns
# after each page written, at least 1).

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
        addl    $4, %edi
        cmpl    $FILL_END, %edi
        jb      fill

        movw    $0x3f8, %dx
        movb    $'F', %al
        outb    %al, %dx

.if WORK_END > WORK_START
again:  movl    $WORK_START, %edi
dirty:  incl    (%edi)
        movl    $DELAY, %ecx
wait:   decl    %ecx
        jnz     wait
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
