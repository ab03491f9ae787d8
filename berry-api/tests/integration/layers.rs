//! The arrows between the crates: core <- loadbalance <- relay <- api, and cli over what the server uses.

use std::collections::BTreeSet;
use std::path::Path;

/// The berry crates that a crate's manifest names under `[dependencies]`.
fn dependencies(krate: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let manifest = std::fs::read_to_string(root.join(krate).join("Cargo.toml")).expect("a manifest");
    let (_, after) = manifest.split_once("[dependencies]").expect("dependencies");
    let section = after.split("\n[").next().unwrap_or(after);
    section
        .lines()
        .filter(|line| line.starts_with("berry-"))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn crate_arrows_go_one_way() {
    for (krate, allowed) in [
        ("berry-core", &[][..]),
        ("berry-mock", &[]),
        ("berry-loadbalance", &["berry-core"]),
        ("berry-ledger", &["berry-core"]),
        ("berry-relay", &["berry-core", "berry-loadbalance"]),
        ("berry-api", &["berry-core", "berry-ledger", "berry-loadbalance", "berry-relay", "berry-mock"]),
        ("berry-cli", &["berry-core", "berry-ledger", "berry-loadbalance", "berry-relay", "berry-mock", "berry-bench"]),
    ] {
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let more: Vec<String> = dependencies(krate).difference(&allowed).cloned().collect();
        assert!(more.is_empty(), "{krate} must not depend on {more:?}");
    }
}
