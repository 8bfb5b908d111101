//! Our lines in the machine's hosts file, between two comments (pure). Whatever happened to them, what is not ours stays
//! byte for byte, and nothing of ours stays when they go.

use agentd_protocol::ids::ServiceName;

const BEGIN: &[u8] = b"# BEGIN agentd";
const BEGIN_LINE: &str = "# BEGIN agentd: names of services, rewritten with every change of the stack";
/// Behind [`BEGIN_LINE`] when the last line above had no end: it gets that back too.
const GLUED: &str = " (no line end above)";
const END: &[u8] = b"# END agentd";
const END_LINE: &str = "# END agentd";
const ADDRESS: &str = "127.0.0.1";

/// What a line is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Begin {
        glued: bool,
    },
    End,
    /// As we write the name of a service; ours between the two comments alone.
    Name,
    Theirs,
}

fn read(line: &[u8], suffix: &str) -> Line {
    let line = line.trim_ascii_end();
    if line.starts_with(BEGIN) {
        return Line::Begin { glued: line.ends_with(GLUED.as_bytes()) };
    }
    if line.starts_with(END) {
        return Line::End;
    }
    let name = line.strip_prefix(ADDRESS.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
    let label = name.and_then(|name| name.strip_suffix(suffix.as_bytes())).and_then(|name| name.strip_suffix(b"."));
    match label.and_then(|label| std::str::from_utf8(label).ok()) {
        Some(label) if ServiceName::new(label).is_ok() => Line::Name,
        Some(_) | None => Line::Theirs,
    }
}

/// The file without us, and where in it we were.
fn strip(file: &[u8], suffix: &str) -> (Vec<u8>, Option<usize>) {
    let lines: Vec<(Line, &[u8])> =
        file.split_inclusive(|byte| *byte == b'\n').map(|line| (read(line, suffix), line)).collect();
    let mut kept: Vec<(Line, &[u8])> = Vec::new();
    let (mut place, mut glued) = (None, false);
    let mut rest = lines.as_slice();
    while let Some(((kind, line), after)) = rest.split_first() {
        rest = after;
        match kind {
            Line::Name | Line::Theirs => kept.push((*kind, line)),
            // Its beginning was lost: the names right above are ours.
            Line::End => {
                while kept.last().is_some_and(|(kind, _)| *kind == Line::Name) {
                    kept.pop();
                }
                place.get_or_insert(kept.len());
            }
            Line::Begin { glued: is_glued } => {
                place.get_or_insert(kept.len());
                glued |= is_glued;
                let until = after.iter().position(|(kind, _)| matches!(kind, Line::Begin { .. } | Line::End));
                let is_whole = until.is_some_and(|at| after[at].0 == Line::End);
                let (block, behind) = match until {
                    Some(at) if is_whole => (&after[..at], &after[at + 1..]),
                    // Its end was lost: what follows it directly and looks like ours is.
                    Some(_) | None => after.split_at(after.iter().take_while(|(kind, _)| *kind == Line::Name).count()),
                };
                // A person's line in our block is still a person's.
                kept.extend(block.iter().filter(|(kind, _)| *kind == Line::Theirs));
                rest = behind;
            }
        }
    }
    let place = place.map(|count| kept.iter().take(count).map(|(_, line)| line.len()).sum());
    let mut bytes: Vec<u8> = kept.iter().flat_map(|(_, line)| line.iter().copied()).collect();
    if glued && place == Some(bytes.len()) && bytes.last() == Some(&b'\n') {
        bytes.pop();
        return (bytes, None);
    }
    (bytes, place)
}

pub(super) fn without(file: &[u8], suffix: &str) -> Vec<u8> {
    strip(file, suffix).0
}

/// With these names and no others; none at all, and the block goes too. One name a line: musl reads 512 bytes of a line.
pub(super) fn with(file: &[u8], names: &[ServiceName], suffix: &str) -> Vec<u8> {
    let (bytes, place) = strip(file, suffix);
    if names.is_empty() {
        return bytes;
    }
    let (above, below) = bytes.split_at(place.unwrap_or(bytes.len()));
    let is_cut = above.last().is_some_and(|last| *last != b'\n');
    let (line_end, glued) = if is_cut { ("\n", GLUED) } else { ("", "") };
    let mut block = format!("{line_end}{BEGIN_LINE}{glued}\n");
    for name in names {
        block.push_str(&format!("{ADDRESS} {name}.{suffix}\n"));
    }
    block.push_str(END_LINE);
    block.push('\n');
    [above, block.as_bytes(), below].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUFFIX: &str = "svc.internal";

    fn names(names: &[&str]) -> Vec<ServiceName> {
        names.iter().map(|name| ServiceName::new(*name).unwrap()).collect()
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    fn block(names: &[&str]) -> String {
        text(with(b"", &self::names(names), SUFFIX))
    }

    #[test]
    fn the_block_comes_changes_in_its_place_and_goes() {
        let machine = "127.0.0.1 localhost\r\n::1 localhost\n";
        let first = text(with(machine.as_bytes(), &names(&["api", "web"]), SUFFIX));
        assert_eq!(
            first,
            format!("{machine}{BEGIN_LINE}\n127.0.0.1 api.svc.internal\n127.0.0.1 web.svc.internal\n# END agentd\n")
        );
        let behind = format!("{first}10.0.0.1 later\n");
        let second = text(with(behind.as_bytes(), &names(&["db"]), SUFFIX));
        assert_eq!(second, format!("{machine}{}10.0.0.1 later\n", block(&["db"])));
        assert_eq!(text(with(second.as_bytes(), &[], SUFFIX)), format!("{machine}10.0.0.1 later\n"));
        assert_eq!(text(without(second.as_bytes(), SUFFIX)), format!("{machine}10.0.0.1 later\n"));
    }

    #[test]
    fn broken_blocks_are_healed_and_nothing_of_others_is_lost() {
        let (api, whole) = ("127.0.0.1 api.svc.internal\n", block(&["api"]));
        let half = whole.replace("# END agentd\n", "");
        let endless = format!("a\n{half}10.0.0.1 b\n{api}");
        let cases = [
            // Twice.
            (format!("a\n{whole}b\n{whole}c\n"), format!("a\n{whole}b\nc\n")),
            // Without its end, with its end alone, half and whole.
            (endless, format!("a\n{whole}10.0.0.1 b\n{api}")),
            (format!("a\n{api}{api}# END agentd\nb\n"), format!("a\n{whole}b\n")),
            (format!("a\n{half}b\n{whole}c\n"), format!("a\n{whole}b\nc\n")),
            // A person's line in it, and one of ours where a person put it.
            (
                format!("{api}{}", whole.replace(api, &format!("{api}10.0.0.9 mine\n"))),
                format!("{api}{whole}10.0.0.9 mine\n"),
            ),
            ("# BEGIN agentd".to_owned(), whole.clone()),
            ("# END agentd".to_owned(), whole.clone()),
        ];
        for (broken, healed) in cases {
            assert_eq!(text(with(broken.as_bytes(), &names(&["api"]), SUFFIX)), healed, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn what_was_there_comes_back_byte_for_byte(
            lines in prop::collection::vec("[ -~]{0,20}|127.0.0.1 x.svc.internal|\\PC{0,5}", 0..6),
            is_ended: bool,
        ) {
            let mut file = lines.join("\n").into_bytes();
            if is_ended {
                file.push(b'\n');
            }
            let made = with(&file, &names(&["api", "web"]), SUFFIX);
            prop_assert_eq!(&with(&made, &names(&["api", "web"]), SUFFIX), &made);
            prop_assert_eq!(&without(&made, SUFFIX), &file);
            prop_assert_eq!(without(&with(&made, &names(&["db"]), SUFFIX), SUFFIX), file);
        }

        #[test]
        fn no_file_is_too_odd(file: Vec<u8>, pieces in prop::collection::vec(0..5_usize, 0..8)) {
            let parts = [&b"# BEGIN agentd\n"[..], b"# END agentd\n", b"127.0.0.1 a.svc.internal\n", b"x\n", &file];
            let odd: Vec<u8> = pieces.iter().flat_map(|piece| parts[*piece].to_vec()).collect();
            let healed = with(&odd, &names(&["api"]), SUFFIX);
            prop_assert_eq!(with(&healed, &names(&["api"]), SUFFIX), healed);
        }
    }
}
