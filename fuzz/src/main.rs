//! One binary for all targets: `BERRY_FUZZ_TARGET` names the one that runs, so that there is one thing to build.
#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("BERRY_FUZZ_TARGET").expect("BERRY_FUZZ_TARGET names a target");
        targets::of_name(&name).unwrap_or_else(|| panic!("no target named {name}"))
    });
    target(data);
});
