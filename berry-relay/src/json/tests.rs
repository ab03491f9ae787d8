use proptest::prelude::*;

use super::*;

static WANTED: Wanted = Wanted::new(&["model", "stream", "x"]);

fn scan(text: &[u8], cut: usize) -> Result<Members, JsonError> {
    let mut scanner = Scanner::new(&WANTED);
    scanner.push(&text[..cut])?;
    scanner.push(&text[cut..])?;
    scanner.finish()
}

fn span<'a>(text: &'a str, members: &Members, name: &str) -> &'a str {
    &text[members.get(name).unwrap().value.clone()]
}

#[test]
fn wanted_members_of_the_top_level_are_found_wherever_the_body_is_cut() {
    let text =
        r#" {"messages":[{"model":"inner"}], "model" : "gpt-4","str\u0065am":true , "x":{"model":[1,2]},"n":-0.5e+7} "#;
    for cut in 0..=text.len() {
        let members = scan(text.as_bytes(), cut).unwrap();
        assert_eq!(span(text, &members, "model"), "\"gpt-4\"");
        assert_eq!(span(text, &members, "stream"), "true");
        assert_eq!(span(text, &members, "x"), r#"{"model":[1,2]}"#);
        assert_eq!(&text[members.get("stream").unwrap().key.clone()], r#""str\u0065am""#);
        assert_eq!(members.close(), Some(text.len() - 2));
    }
}

#[test]
fn a_byte_order_mark_before_everything_means_nothing_and_is_counted() {
    let text = "\u{feff} {\"model\":\"a\"}";
    for cut in 0..=text.len() {
        let members = scan(text.as_bytes(), cut).unwrap();
        assert_eq!(span(text, &members, "model"), "\"a\"");
        assert_eq!(members.close(), Some(text.len() - 1));
    }
    assert_eq!(Outline::read(text.as_bytes()).map(|outline| outline.range(Place::TOP)), Some(4..text.len()));
    assert_eq!(unmarked(text.as_bytes()), &text.as_bytes()[3..]);
    for bad in ["\u{feff}", " \u{feff}{}", "\u{feff}\u{feff}{}", "{\u{feff}}", "\u{fefe}{}"] {
        for cut in 0..=bad.len() {
            assert!(scan(bad.as_bytes(), cut).is_err(), "{bad:?}");
        }
        assert!(Outline::read(bad.as_bytes()).is_none(), "{bad:?}");
    }
}

#[test]
fn every_wanted_name_is_found_and_no_other() {
    static NAMES: Wanted =
        Wanted::new(&["a", "", "model", "stream", "aa", "bb", "ab", "ba", "a long name with many words in it"]);
    for name in ["a", "", "model", "stream", "aa", "bb", "ab", "ba", "a long name with many words in it"] {
        assert_eq!(NAMES.find(name.as_bytes()), Some(name));
        assert_eq!(NAMES.find(format!("{name}x").as_bytes()), None);
    }
    for name in ["b", "models", "Model", "modem", "stram", "cc"] {
        assert_eq!(NAMES.find(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn repeated_members_are_told_even_when_one_is_escaped() {
    let members = scan(br#"{"model":1,"x":2,"mod\u0065l":3,"model":4}"#, 0).unwrap();
    assert!(members.is_repeated("model") && !members.is_repeated("x"));
    assert_eq!(members.get("model").unwrap().value, 9..10);
}

#[test]
fn a_number_at_the_top_ends_with_the_body_and_a_lone_minus_does_not() {
    assert!(scan(b"-12.5e3", 3).is_ok());
    assert!(scan(b"12 ", 1).is_ok());
    for bad in ["-", "1.", "1e", "01", "1x", "+1", ".5"] {
        assert!(scan(bad.as_bytes(), 0).is_err(), "{bad}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(scan(&nested(DEPTH_MAX), 0).is_ok());
    assert_eq!(scan(&nested(DEPTH_MAX + 1), 0).unwrap_err().offset, DEPTH_MAX);
    assert!(scan(&vec![b'['; 1_000_000], 0).is_err());
}

#[test]
fn an_error_says_where_and_what_should_have_stood_there() {
    for (text, offset, expected) in [
        ("{\"a\" 1}", 5, "`:`"),
        ("{\"a\":1 \"b\"", 7, "`,` or `}`"),
        ("[1 2]", 3, "`,` or `]`"),
        ("{,}", 1, "a key or `}`"),
        ("{\"a\":1,}", 7, "a key"),
        ("[1,]", 3, "a value"),
        ("\"a\nb\"", 2, "no control character inside a string"),
        ("\"\\x\"", 2, "an escape that JSON knows"),
        ("\"\\u12g4\"", 5, "four hexadecimal digits"),
        ("nul", 3, "the rest of the JSON value"),
        ("nulL", 3, "`true`, `false` or `null`"),
        ("{} x", 3, "the end of the body"),
    ] {
        assert_eq!(scan(text.as_bytes(), 0), Err(JsonError { offset, expected }), "{text}");
    }
}

/// Any JSON value as text, with odd spellings: white space, exponents, escapes, repeated keys.
fn json_text() -> impl Strategy<Value = String> {
    let space = "[ \n\t\r]{0,2}";
    let number = "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?";
    let text = r#""([a-z é漢😀]|\\["\\/bfnrt]|\\u00[0-9a-f]{2}){0,6}""#;
    let leaf = prop_oneof![Just("true".to_owned()), Just("false".to_owned()), Just("null".to_owned()), number, text];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        let padded = (space, inner, space).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (space, text, space, padded.clone()).prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
        prop_oneof![
            proptest::collection::vec(padded, 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            proptest::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

#[test]
fn a_member_that_is_an_object_keeps_the_place_of_its_key_wherever_the_body_is_cut() {
    let text = r#"{"a":1,"x":{"stream":{"y":2}},"b":3}"#;
    let whole = scan(text.as_bytes(), text.len()).unwrap();
    assert_eq!(&text[whole.get("x").unwrap().removal.clone()], r#""x":{"stream":{"y":2}},"#);
    for cut in 0..text.len() {
        assert_eq!(scan(text.as_bytes(), cut).unwrap(), whole, "cut at {cut}");
    }
}

fn serde_accepts(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// The same check by the other reader.
fn cursor_accepts(text: &[u8]) -> bool {
    let mut cursor = Cursor::new(text);
    cursor.skip().and_then(|()| cursor.end()).is_some()
}

/// Scans a text cut at any number of places.
fn scan_cut(text: &[u8], cuts: &[proptest::sample::Index]) -> Result<Members, JsonError> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    let mut scanner = Scanner::new(&WANTED);
    for pair in places.windows(2) {
        scanner.push(&text[pair[0]..pair[1]])?;
    }
    scanner.finish()
}

fn cuts() -> impl Strategy<Value = Vec<proptest::sample::Index>> {
    proptest::collection::vec(any::<proptest::sample::Index>(), 0..6)
}

/// A text with some bytes replaced by others, mostly by such as mean something.
fn damaged_text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![proptest::sample::select(&b"\"\\,:{}[]0.eE+-tnu/ \n"[..]), 0_u8..0x7f];
    let damage = proptest::collection::vec((any::<proptest::sample::Index>(), byte), 0..4);
    (json_text(), damage).prop_map(|(text, damage)| {
        let mut bytes = text.into_bytes();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes
    })
}

/// What stands in a value, names and all, as an outline tells it.
fn outlined(text: &[u8], outline: &Outline, place: Place, told: &mut Vec<(bool, Vec<u8>)>) {
    let value = &text[outline.range(place)];
    told.push((false, value.to_vec()));
    match Raw(value).kind() {
        Kind::Object => outline.members(place).for_each(|member| {
            told.push((member.is_escaped(), text[member.name()].to_vec()));
            outlined(text, outline, member.value(), told);
        }),
        Kind::Array => outline.elements(place).for_each(|element| outlined(text, outline, element, told)),
        _ => {}
    }
}

/// The same, read anew at each level.
fn read_again(value: &[u8], told: &mut Vec<(bool, Vec<u8>)>) {
    told.push((false, value.to_vec()));
    let mut cursor = Cursor::new(value);
    match Raw(value).kind() {
        Kind::Object => cursor.members(|name, cursor| {
            told.push((name.contains(&b'\\'), name.to_vec()));
            cursor.value().map(|value| read_again(value.0, told))
        }),
        Kind::Array => cursor.elements(|cursor| cursor.value().map(|value| read_again(value.0, told))),
        _ => Some(()),
    }
    .unwrap();
}

proptest! {
    #[test]
    fn an_outline_tells_what_reading_again_tells(text in damaged_text()) {
        let outline = Outline::read(&text);
        prop_assert_eq!(outline.is_some(), cursor_accepts(&text));
        if let Some(outline) = outline {
            let (mut told, mut read) = (Vec::new(), Vec::new());
            outlined(&text, &outline, Place::TOP, &mut told);
            read_again(text.trim_ascii(), &mut read);
            prop_assert_eq!(told, read);
        }
    }

    #[test]
    fn what_is_json_is_accepted_whatever_its_spelling(text in json_text(), cuts in cuts()) {
        prop_assert!(serde_accepts(text.as_bytes()));
        prop_assert!(scan_cut(text.as_bytes(), &cuts).is_ok());
        prop_assert!(cursor_accepts(text.as_bytes()));
    }

    #[test]
    fn a_damaged_body_is_judged_as_serde_json_judges_it(text in damaged_text(), cuts in cuts()) {
        // serde_json refuses what is not UTF-8; here that passes as it came.
        if std::str::from_utf8(&text).is_ok() {
            prop_assert_eq!(scan_cut(&text, &cuts).is_ok(), serde_accepts(&text));
        }
    }

    #[test]
    fn the_cuts_change_neither_what_is_found_nor_what_is_wrong(text in damaged_text(), cuts in cuts()) {
        prop_assert_eq!(scan_cut(&text, &cuts), scan_cut(&text, &[]));
    }

    #[test]
    fn byte_by_byte_the_same_is_found_and_the_same_is_wrong(text in damaged_text()) {
        let mut scanner = Scanner::new(&WANTED);
        let found = text.chunks(1).try_for_each(|byte| scanner.push(byte)).and_then(|()| scanner.finish());
        prop_assert_eq!(found, scan_cut(&text, &[]));
    }

    #[test]
    fn both_readers_take_the_same_texts(text in damaged_text()) {
        prop_assert_eq!(cursor_accepts(&text), scan_cut(&text, &[]).is_ok());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), cuts in cuts()) {
        let _ = scan_cut(&bytes, &cuts);
        let _ = cursor_accepts(&bytes);
    }

    #[test]
    fn a_removal_leaves_the_other_members_and_nothing_else(
        before in proptest::collection::vec(json_text(), 0..3),
        after in proptest::collection::vec(json_text(), 0..3),
        space in "[ \n\t]{0,2}",
        cuts in cuts(),
    ) {
        let member = |name: &str, value: &String| format!("\"{name}\"{space}:{space}{value}{space}");
        let others = |values: &[String]| values.iter().map(|value| member("y", value)).collect::<Vec<_>>();
        let (before, after) = (others(&before), others(&after));
        let join = |members: &[String]| format!("{{{space}{}}}", members.join(&format!(",{space}")));
        let all = [&before[..], &[member("x", &"1".to_owned())], &after[..]].concat();
        let text = join(&all);
        let removal = scan_cut(text.as_bytes(), &cuts).unwrap().get("x").unwrap().removal.clone();
        let left = format!("{}{}", &text[..removal.start], &text[removal.end..]);
        let tight = |text: &str| text.split_whitespace().collect::<String>();
        prop_assert_eq!(tight(&left), tight(&join(&[&before[..], &after[..]].concat())));
    }
}

#[test]
fn a_removal_takes_the_comma_behind_the_member_or_else_the_one_before() {
    for (text, cut) in [
        (r#"{"x":1}"#, r#""x":1"#),
        (r#"{ "x" : 1 }"#, r#""x" : 1"#),
        (r#"{"x":1 ,"b":2}"#, r#""x":1 ,"#),
        (r#"{"a":0 , "x":1 , "b":2}"#, r#""x":1 ,"#),
        (r#"{"a":0 , "x":1 }"#, r#", "x":1"#),
        (r#"{"a":[1,2],"x":{"y":[1,{"z":2}]}}"#, r#","x":{"y":[1,{"z":2}]}"#),
    ] {
        for place in 0..=text.len() {
            let removal = scan(text.as_bytes(), place).unwrap().get("x").unwrap().removal.clone();
            assert_eq!(&text[removal], cut, "{text} cut at {place}");
        }
    }
}

#[test]
fn a_cursor_gives_members_and_elements_as_they_are_written() {
    let mut seen = Vec::new();
    let mut cursor = Cursor::new(br#" {"a" : [1 , "x\"", {"b":null}] , "c":-2.5e3 ,"d":{}} "#);
    cursor
        .members(|key, value| {
            if key != b"a" {
                seen.push(value.value()?.0.to_vec());
                return Some(());
            }
            value.elements(|element| {
                seen.push(element.value()?.0.to_vec());
                Some(())
            })
        })
        .unwrap();
    cursor.end().unwrap();
    let seen: Vec<_> = seen.iter().map(|raw| std::str::from_utf8(raw).unwrap()).collect();
    assert_eq!(seen, ["1", r#""x\"""#, r#"{"b":null}"#, "-2.5e3", "{}"]);
}

#[test]
fn few_digits_are_read_at_once_and_anything_else_is_left() {
    for (text, number, left) in [
        ("0,", Some(0), ","),
        (" 42}", Some(42), "}"),
        ("123456789012 ", Some(123_456_789_012), " "),
        ("7]", Some(7), "]"),
        ("1234567890123,", None, "1234567890123,"),
        ("01,", None, "01,"),
        ("1.0,", None, "1.0,"),
        ("1e3,", None, "1e3,"),
        ("-1,", None, "-1,"),
        ("12", None, "12"),
        (",", None, ","),
        ("\"1\",", None, "\"1\","),
    ] {
        let mut cursor = Cursor::new(text.as_bytes());
        assert_eq!(cursor.few_digits(), number, "{text}");
        assert_eq!(cursor.rest(), left.as_bytes(), "{text}");
    }
}

#[test]
fn what_is_nothing_is_told_from_what_is_little() {
    for (raw, nothing) in [
        ("null", true),
        ("\"\"", true),
        ("[ ]", true),
        ("{}", true),
        ("\" \"", false),
        ("[0]", false),
        ("0", false),
        ("false", false),
    ] {
        assert_eq!(Raw(raw.as_bytes()).is_nothing(), nothing, "{raw}");
    }
}

#[test]
fn deep_nesting_is_refused_by_both_readers() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(cursor_accepts(&nested(DEPTH_MAX)));
    assert!(!cursor_accepts(&nested(DEPTH_MAX + 1)));
    assert!(!cursor_accepts(&br#"{"a":"#.repeat(100_000)));
}
