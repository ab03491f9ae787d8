//! The inputs from which fuzzing starts, run once: `scripts/fuzz.sh` looks for more.

use std::path::Path;

#[path = "../../fuzz/src/targets.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's binary has it too")]
mod targets;

#[test]
fn every_committed_input_keeps_what_holds_for_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, _) in targets::TARGETS {
        let run = targets::of_name(name).unwrap();
        let inputs: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{name} has no input to begin with");
        inputs.iter().for_each(|path| run(&std::fs::read(path).unwrap()));
    }
}
