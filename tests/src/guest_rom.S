# A ROM that takes the BIOS's place, copies the guest's boot sector to where a BIOS would load it
# and runs it: for hosts whose KVM cannot run a BIOS that waits for a floppy's interrupt.
# Assembled beside `guest.bin`; 64 KiB, the last of them below 1 MiB and below 4 GiB.

        .set    SECTOR, 0xfc00

        .code16
        .globl  _start
_start: .org    SECTOR
        .incbin "guest.bin"

        .org    0xffc0
copy:   cli
        movw    $0xf000, %ax
        movw    %ax, %ds
        xorw    %ax, %ax
        movw    %ax, %es
        movw    $SECTOR, %si
        movw    $0x7c00, %di
        movw    $256, %cx
        cld
        rep movsw
        ljmp    $0, $0x7c00

        .org    0xfff0                  # where the CPU begins
        ljmp    $0xf000, $copy
        .org    0x10000
