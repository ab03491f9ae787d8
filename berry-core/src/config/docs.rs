//! stub
/// The reference of all keys.
pub fn reference() -> String {
    String::new()
}
