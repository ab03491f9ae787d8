//! What a translation could not carry.
//!
//! Every field of a request ends in the upstream's body or here. The list is told in the header `x-berry-loss`, in the access
//! line, and decides under `loss_policy = "reject"`.

use std::borrow::Cow;

/// Most losses that are kept; a body with more different ones is not worth listing further.
const LOSSES_MAX: usize = 64;
/// Longest name of a field, bytes. Names that clients made up are cut.
const FIELD_BYTES_MAX: usize = 64;

/// Why something was not carried as it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The other dialect has no place for it.
    Unsupported,
    /// The dialect has a place, the model does not take it.
    Model,
    /// No dialect that we know has this field.
    Unknown,
    /// A number was moved into the range that is allowed there, or a list was shortened.
    Clamped,
    /// It was said in another way that means nearly the same.
    Approximated,
    /// It was issued by another vendor, which alone can read it.
    Foreign,
    /// It was wrong in itself: a result without a call, an empty block, arguments that are no JSON.
    Invalid,
    /// Something had to be put in that the client did not send.
    Added,
    /// The operator's settings put another value in its place.
    Overridden,
    /// The operator's settings took it out.
    Dropped,
    /// The upstream had refused it, and it was left out or said in another way.
    Repaired,
}

impl Reason {
    /// Its name in headers and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Model => "model",
            Self::Unknown => "unknown",
            Self::Clamped => "clamped",
            Self::Approximated => "approximated",
            Self::Foreign => "foreign",
            Self::Invalid => "invalid",
            Self::Added => "added",
            Self::Overridden => "overridden",
            Self::Dropped => "dropped",
            Self::Repaired => "repaired",
        }
    }
}

/// One thing that was not carried as it stood.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Loss {
    /// The field by the client's name for it, without indices: `messages.name`.
    pub field: Cow<'static, str>,
    /// Why.
    pub reason: Reason,
}

/// The losses of one request, each once, in the order in which they were met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(Vec<Loss>);

impl Losses {
    /// Adds one, unless it is there already.
    pub fn add(&mut self, field: impl Into<Cow<'static, str>>, reason: Reason) {
        let field = bounded(field.into());
        if self.0.len() < LOSSES_MAX && !self.0.iter().any(|loss| loss.reason == reason && loss.field == field) {
            self.0.push(Loss { field, reason });
        }
    }

    /// Adds a field below another one.
    pub fn below(&mut self, parent: &str, field: &str, reason: Reason) {
        self.add(format!("{parent}.{field}"), reason);
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: &Self) {
        for loss in &other.0 {
            self.add(loss.field.clone(), loss.reason);
        }
    }

    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The losses.
    pub fn iter(&self) -> impl Iterator<Item = &Loss> {
        self.0.iter()
    }

    /// The value of `x-berry-loss`: `field;reason, field;reason`.
    pub fn header(&self) -> String {
        let mut value = String::new();
        for Loss { field, reason } in &self.0 {
            if !value.is_empty() {
                value.push_str(", ");
            }
            value.push_str(field);
            value.push(';');
            value.push_str(reason.as_str());
        }
        value
    }

    /// The names of the fields, for people.
    pub fn fields(&self) -> String {
        let fields: Vec<&str> = self.0.iter().map(|loss| &*loss.field).collect();
        fields.join(", ")
    }
}

/// A name that any header and log line can carry.
fn bounded(field: Cow<'static, str>) -> Cow<'static, str> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'"');
    if field.len() <= FIELD_BYTES_MAX && field.bytes().all(fits) {
        return field;
    }
    let kept = field.bytes().take(FIELD_BYTES_MAX).map(|byte| if fits(byte) { char::from(byte) } else { '?' });
    Cow::Owned(kept.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loss_is_told_once_and_in_order() {
        let mut losses = Losses::default();
        losses.add("seed", Reason::Unsupported);
        losses.below("messages", "name", Reason::Unsupported);
        losses.add("seed", Reason::Unsupported);
        assert_eq!(losses.header(), "seed;unsupported, messages.name;unsupported");
        assert_eq!(losses.fields(), "seed, messages.name");
    }

    #[test]
    fn names_that_a_client_made_up_cannot_break_the_header_or_fill_memory() {
        let mut losses = Losses::default();
        losses.add("a\r\nb, c;é".to_owned(), Reason::Unknown);
        assert_eq!(losses.header(), "a??b??c???;unknown");
        (0..1000).for_each(|i| losses.add(format!("{i}{}", "x".repeat(1000)), Reason::Unknown));
        assert!(losses.header().len() < LOSSES_MAX * (FIELD_BYTES_MAX + 20));
    }
}
