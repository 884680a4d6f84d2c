use proptest::prelude::*;

use super::{Broken, Kind, Reader, TABLE, Writer, huffman};

type Field = (String, String);

fn hex(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn read(reader: &mut Reader, block: &[u8]) -> Result<Vec<Field>, Broken> {
    let mut out = Vec::new();
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    reader.read(block, |name, value, _| out.push((text(name), text(value)))).map(|()| out)
}

fn fields(lines: &str) -> Vec<Field> {
    lines
        .lines()
        .map(|line| {
            let (name, value) = line.trim().split_once(" = ").unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

const FIRST: &str = ":method = GET
    :scheme = http
    :path = /
    :authority = www.example.com";

const SECOND: &str = ":method = GET
    :scheme = http
    :path = /
    :authority = www.example.com
    cache-control = no-cache";

const THIRD: &str = ":method = GET
    :scheme = https
    :path = /index.html
    :authority = www.example.com
    custom-key = custom-value";

#[test]
fn the_requests_of_appendix_c_are_read() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let packed = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, packed] {
        let mut reader = Reader::default();
        for (block, wanted) in blocks.iter().zip([FIRST, SECOND, THIRD]) {
            assert_eq!(read(&mut reader, &hex(block)), Ok(fields(wanted)));
        }
    }
}

#[test]
fn the_answers_of_appendix_c_are_read_with_a_table_of_256() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    let packed = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let wanted = [
        ":status = 302
        cache-control = private
        date = Mon, 21 Oct 2013 20:13:21 GMT
        location = https://www.example.com",
        ":status = 307
        cache-control = private
        date = Mon, 21 Oct 2013 20:13:21 GMT
        location = https://www.example.com",
        ":status = 200
        cache-control = private
        date = Mon, 21 Oct 2013 20:13:22 GMT
        location = https://www.example.com
        content-encoding = gzip
        set-cookie = foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ];
    for blocks in [plain, packed] {
        let mut reader = Reader::default();
        // 256, said first.
        assert_eq!(read(&mut reader, &hex("3fe101")), Ok(Vec::new()));
        for (block, wanted) in blocks.iter().zip(wanted) {
            assert_eq!(read(&mut reader, &hex(block)), Ok(fields(wanted)));
        }
    }
}

#[test]
fn the_fields_of_appendix_c_are_read() {
    for (block, wanted) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key = custom-header"),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path = /sample/path"),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password = secret"),
        ("82", ":method = GET"),
    ] {
        assert_eq!(read(&mut Reader::default(), &hex(block)), Ok(fields(wanted)));
    }
}

#[test]
fn what_is_no_block_is_refused() {
    for bad in [
        "80",                   // field 0
        "be",                   // nothing stands there
        "ff ff ff ff ff ff",    // a number without end
        "ff 80 80 80 00",       // one that is longer than it needs to be
        "00",                   // no name
        "00 01",                // half a name
        "00 01 61",             // no value
        "00 01 61 05 62",       // half a value
        "3f e2 1f",             // a table of 4097
        "82 20",                // a size behind a field
        "00 81 ff 00",          // a name of padding alone, and none
        "00 82 ff ff 00",       // padding of a byte
        "00 84 ff ff ff ff 00", // the end of a string
        "00 81 00 00",          // padding of zeros
        "7f",                   // half a place
    ] {
        let result = read(&mut Reader::default(), &hex(bad));
        // Padding of less than a byte is none too many.
        assert!(result.is_err() || bad.starts_with("00 81 ff"), "{bad}: {result:?}");
    }
    // Sizes may be said more than once, before all fields.
    assert_eq!(read(&mut Reader::default(), &hex("20 3f e1 1f 82")), Ok(fields(":method = GET")));
}

#[test]
fn what_a_table_has_is_bounded() {
    let mut reader = Reader::default();
    // Entries of 1032 bytes: three fit.
    for at in 0..10u8 {
        let block = [&[0x40, 1, b'a' + at, 0x7f, 0xe8, 0x06][..], &vec![b'x'; 999]].concat();
        assert_eq!(read(&mut reader, &block).unwrap().len(), 1);
    }
    for (place, name) in [(0xbe, "j"), (0xbf, "i"), (0xc0, "h")] {
        assert_eq!(read(&mut reader, &[place]).unwrap()[0].0, name);
    }
    assert_eq!(read(&mut reader, &[0xc1]), Err(Broken));
    // One that is larger than the table empties it, and may still mean what was in it.
    let mut reader = Reader::default();
    read(&mut reader, &hex("40 01 61 01 62")).unwrap();
    let large = [&[0x7e, 0x7f, 0x81, 0x3e][..], &vec![b'x'; 8064]].concat();
    assert_eq!(read(&mut reader, &large).unwrap()[0].0, "a");
    assert_eq!(read(&mut reader, &[0xbe]), Err(Broken));
}

#[test]
fn the_writer_tells_of_another_size_and_keeps_to_it() {
    let (mut writer, mut reader) = (Writer::default(), Reader::default());
    let mut say = |sizes: &[usize], length: usize| {
        for size in sizes {
            writer.allow(*size);
        }
        let mut out = Vec::new();
        writer.begin(&mut out);
        writer.field(b"x-name", b"value", &mut out);
        assert_eq!(read(&mut reader, &out), Ok(fields("x-name = value")));
        assert_eq!(out.len(), length, "{sizes:?}: {out:?}");
    };
    say(&[], 14);
    say(&[], 1);
    say(&[1 << 30, 4096], 1);
    // It was emptied on the way: both sizes are said.
    say(&[0, 4096], 1 + 3 + 14);
    say(&[], 1);
    say(&[0], 1 + 14);
    say(&[], 14);
    say(&[200], 3 + 14);
    say(&[], 1);
}

#[test]
fn a_secret_is_in_no_table() {
    let mut writer = Writer::default();
    let mut sizes = Vec::new();
    for _ in 0..2 {
        for (name, value) in [(&b"set-cookie"[..], &b"a=b"[..]), (b"x-request-id", b"1"), (b"server", b"x")] {
            let mut out = Vec::new();
            writer.field(name, value, &mut out);
            sizes.push((out[0], out.len()));
        }
    }
    assert_eq!(sizes, [(0x1f, 6), (0, 16), (0x76, 3), (0x1f, 6), (0, 16), (0xbe, 1)]);
}

#[test]
fn what_a_field_is_is_the_same_from_a_table_and_without() {
    let names =
        [":method", ":path", ":foo", "host", "cookie", "content-length", "te", "x", "X", "upgrade", ""];
    for name in names {
        for value in ["", "trailers", "a b", " a", "a\t", "\r\n", "\u{7f}"] {
            let kind = Kind::of(name.as_bytes(), value.as_bytes());
            let mut reader = Reader::default();
            let string = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            let mut seen = Vec::new();
            for first in [0x40, 0] {
                let block = [vec![first], string(name), string(value)].concat();
                reader.read(&block, |_, _, kind| seen.push(kind)).unwrap();
            }
            reader.read(&[0xbe], |_, _, kind| seen.push(kind)).unwrap();
            assert_eq!(seen, [kind; 3], "{name:?}: {value:?}");
        }
    }
    for (name, value, kind) in super::table::STATIC {
        assert_eq!(kind, Kind::of(name, value), "{:?}", String::from_utf8_lossy(name));
    }
}

proptest! {
    #[test]
    fn what_is_packed_is_unpacked(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut out = Vec::new();
        prop_assert_eq!(huffman::unpack(&huffman::pack(&bytes), &mut out), Ok(()));
        prop_assert_eq!(out, bytes);
    }

    #[test]
    fn what_is_unpacked_packs_to_the_same(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut out = Vec::new();
        if huffman::unpack(&bytes, &mut out).is_ok() {
            prop_assert_eq!(huffman::pack(&out), bytes);
        }
    }

    #[test]
    fn what_is_written_is_read(
        blocks in prop::collection::vec(
            (
                prop::option::of(0usize..6000),
                prop::collection::vec(("[a-c]{1,3}|date|etag|set-cookie|server", "[a-z]{0,9}|x{900}|y{5000}"), 0..9),
            ),
            1..30,
        ),
    ) {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for (size, fields) in blocks {
            if let Some(size) = size {
                writer.allow(size);
            }
            let mut out = Vec::new();
            writer.begin(&mut out);
            writer.status(404, &mut out);
            writer.status(418, &mut out);
            for (name, value) in &fields {
                writer.field(name.as_bytes(), value.as_bytes(), &mut out);
            }
            let status = |text: &str| (":status".to_owned(), text.to_owned());
            let wanted = [vec![status("404"), status("418")], fields].concat();
            prop_assert_eq!(read(&mut reader, &out), Ok(wanted));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..9)) {
        let mut reader = Reader::default();
        for block in blocks {
            let mut total = 0;
            reader.read(&block, |name, value, _| total += name.len() + value.len()).ok();
            prop_assert!(total <= block.len() * TABLE);
        }
    }
}
