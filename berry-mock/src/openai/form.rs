//! Forms (`multipart/form-data`, RFC 7578), as far as the endpoints that take files need them.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::memmem;

/// The fields of a form: names with their bytes, files included, in order.
pub(super) struct Form<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Form<'a> {
    /// `None` when the headers announce no form, or the body is none.
    pub(super) fn read(headers: &HeaderMap, body: &'a [u8]) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let boundary = kind.strip_prefix("multipart/form-data")?.split("boundary=").nth(1)?;
        let boundary = boundary.split(';').next()?.trim().trim_matches('"');
        if boundary.is_empty() {
            return None;
        }
        // A line break before the first delimiter makes it look like all others.
        let delimiter = format!("\r\n--{boundary}");
        let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..])?;
        let mut fields = Vec::new();
        while !rest.starts_with(b"--") {
            let end = memmem::find(rest, delimiter.as_bytes())?;
            let part = rest[..end].strip_prefix(b"\r\n")?;
            let head = memmem::find(part, b"\r\n\r\n")?;
            if let Some(name) = std::str::from_utf8(&part[..head]).ok().and_then(field_name) {
                fields.push((name, &part[head + 4..]));
            }
            rest = &rest[end + delimiter.len()..];
        }
        Some(Self(fields))
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, bytes)| *bytes)
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }
}

/// `name` of the part's `content-disposition`.
fn field_name(head: &str) -> Option<&str> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let name = line.split(';').find_map(|parameter| parameter.trim().strip_prefix("name="))?;
    Some(name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())])
    }

    #[test]
    fn fields_and_files_are_found() {
        let body = b"--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n\x00\r\n\xff\r\n--x--\r\n";
        let form = Form::read(&headers("multipart/form-data; boundary=\"x\""), body).unwrap();
        assert_eq!(form.text("model"), Some("whisper"));
        assert_eq!(form.bytes("file"), Some(&b"\x00\r\n\xff"[..]));
        assert_eq!(form.bytes("filename"), None);
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for (kind, body) in [
            ("application/json", &b"--x--"[..]),
            ("multipart/form-data", b"--x--"),
            ("multipart/form-data; boundary=", b"--x--"),
            ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nno end"),
            ("multipart/form-data; boundary=x", b""),
        ] {
            assert!(Form::read(&headers(kind), body).is_none(), "{kind}");
        }
    }
}
