//! What every object has: a licence that the kernel accepts, and a panic handler that the compiler asks for.

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // A reachable panic is an endless loop, which the verifier refuses: none is shipped.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
