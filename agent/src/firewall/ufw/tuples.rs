//! What UFW itself reads back of its rules: the `### tuple ###` lines of user.rules and user6.rules (ufw 0.36,
//! `backend_iptables.py`). A line that is not understood is kept out, as UFW keeps it out.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    Reject,
    Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
    /// `ufw route`: for packets that are forwarded.
    Routed,
}

/// One rule. UFW takes two for the same when all but action, log type and comment are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tuple {
    pub action: Action,
    /// `log` or `log-all`.
    pub log: Option<String>,
    pub direction: Direction,
    /// `tcp`, `udp`, `any`, ...
    pub protocol: String,
    /// `any`, `22`, `22,2222`, `7000:7010`.
    pub to_port: String,
    pub to: IpNet,
    pub from_port: String,
    pub from: IpNet,
    /// Interfaces as written, `eth0`, `eth0!eth1`; none for all.
    pub interfaces: Option<String>,
    /// Application profiles, destination and source, as written.
    pub applications: Option<(String, String)>,
    pub comment: Option<String>,
}

const MARK: &str = "### tuple ###";

/// The tuples of one rules file, in its order; the first that matches a packet decides.
pub(super) fn parse(text: &str) -> Vec<Tuple> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Tuple> {
    let line = line.strip_prefix(MARK)?;
    let (line, comment) = match line.split_once(" comment=") {
        Some((line, hex)) => (line, Some(from_hex(hex.trim())?)),
        None => (line, None),
    };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    // 6 and 8 words: the form before directions were written down.
    let (words, applications, way) = match words.as_slice() {
        [rule @ .., way] if rule.len() == 6 => (rule, None, *way),
        [rule @ .., to, from, way] if rule.len() == 6 => (rule, Some((*to, *from)), *way),
        [rule @ .., to, from] if rule.len() == 6 => (rule, Some((*to, *from)), "in"),
        rule if rule.len() == 6 => (rule, None, "in"),
        _ => return None,
    };
    let [action, protocol, to_port, to, from_port, from] = words else { return None };
    let (routed, action) = match action.strip_prefix("route:") {
        Some(action) => (true, action),
        None => (false, *action),
    };
    let (action, log) = match action.split_once('_') {
        Some((action, log)) => (action, Some(log.to_owned())),
        None => (action, None),
    };
    let (direction, interfaces) = parse_way(way)?;
    Some(Tuple {
        action: parse_action(action)?,
        log,
        direction: if routed { Direction::Routed } else { direction },
        protocol: (*protocol).to_owned(),
        to_port: (*to_port).to_owned(),
        to: parse_net(to)?,
        from_port: (*from_port).to_owned(),
        from: parse_net(from)?,
        interfaces,
        applications: applications.map(|(to, from)| (to.to_owned(), from.to_owned())),
        comment,
    })
}

fn parse_action(word: &str) -> Option<Action> {
    match word {
        "allow" => Some(Action::Allow),
        "deny" => Some(Action::Deny),
        "reject" => Some(Action::Reject),
        "limit" => Some(Action::Limit),
        _ => None,
    }
}

/// `in`, `out`, `in_eth0`, `out_eth0`, `in_eth0!out_eth1`.
fn parse_way(way: &str) -> Option<(Direction, Option<String>)> {
    let (word, interfaces) = match way.split_once('_') {
        Some((word, interfaces)) => (word, Some(interfaces.replace("!out_", "!"))),
        None => (way, None),
    };
    match word {
        "in" => Some((Direction::In, interfaces)),
        "out" => Some((Direction::Out, interfaces)),
        _ => None,
    }
}

/// UFW writes a single address without its length.
fn parse_net(text: &str) -> Option<IpNet> {
    IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from)).ok()
}

fn from_hex(hex: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
            _ => None,
        })
        .collect();
    Some(String::from_utf8_lossy(&bytes?).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written by ufw 0.36.2 on Debian 12.
    const WRITTEN: &str = "*filter
:ufw-user-input - [0:0]
### RULES ###

### tuple ### allow tcp 8443 0.0.0.0/0 any 0.0.0.0/0 in comment=6d696e6520c3a9
-A ufw-user-input -p tcp --dport 8443 -j ACCEPT

### tuple ### deny tcp 9000 0.0.0.0/0 any 0.0.0.0/0 in
-A ufw-user-input -p tcp --dport 9000 -j DROP

### tuple ### allow tcp 22 0.0.0.0/0 any 203.0.113.0/24 in comment=6167656e74643a737368
### tuple ### allow any 80 0.0.0.0/0 any 0.0.0.0/0 in_eth0
### tuple ### allow any 53 0.0.0.0/0 any 0.0.0.0/0 out
### tuple ### route:allow tcp 80 10.0.0.1 any 0.0.0.0/0 in_eth0!out_eth1
### tuple ### allow_log-all udp 7000:7010 ::/0 any ::/0 in
### tuple ### reject any any 0.0.0.0/0 any 1.2.3.4 in
### tuple ### limit tcp 22 0.0.0.0/0 any 0.0.0.0/0 OpenSSH - in
### END RULES ###
COMMIT
";

    #[test]
    fn what_ufw_wrote_is_read() {
        let tuples = parse(WRITTEN);
        assert_eq!(tuples.len(), 9);
        assert_eq!(tuples[0].comment.as_deref(), Some("mine é"));
        assert_eq!((tuples[0].to_port.as_str(), tuples[0].action), ("8443", Action::Allow));
        assert_eq!(tuples[1].action, Action::Deny);
        assert_eq!(
            (tuples[2].from, tuples[2].comment.as_deref()),
            ("203.0.113.0/24".parse().unwrap(), Some("agentd:ssh"))
        );
        assert_eq!(tuples[3].interfaces.as_deref(), Some("eth0"));
        assert_eq!(tuples[4].direction, Direction::Out);
        assert_eq!((tuples[5].direction, tuples[5].interfaces.as_deref()), (Direction::Routed, Some("eth0!eth1")));
        assert_eq!((tuples[6].log.as_deref(), tuples[6].to), (Some("log-all"), "::/0".parse().unwrap()));
        assert_eq!((tuples[7].action, tuples[7].from), (Action::Reject, "1.2.3.4/32".parse().unwrap()));
        assert_eq!(tuples[8].applications, Some(("OpenSSH".to_owned(), "-".to_owned())));
    }

    #[test]
    fn what_is_no_tuple_is_left_out() {
        for line in [
            "### tuple ###",
            "### tuple ### allow tcp 22 0.0.0.0/0 any",
            "### tuple ### permit tcp 22 0.0.0.0/0 any 0.0.0.0/0 in",
            "### tuple ### allow tcp 22 nowhere any 0.0.0.0/0 in",
            "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 sideways",
            "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=6x",
            "### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=616",
            "-A ufw-user-input -p tcp --dport 9000 -j DROP",
        ] {
            assert_eq!(parse(line), [], "{line}");
        }
        assert_eq!(parse("### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0")[0].direction, Direction::In);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC*", tail in "[a-z0-9_!:/ .=é-]{0,80}") {
            parse(&text);
            parse(&format!("### tuple ###{tail}\n### tuple ### allow tcp {tail}"));
        }

        #[test]
        fn a_comment_comes_back_whatever_it_says(comment in "\\PC{1,40}") {
            let hex: String = comment.bytes().map(|byte| format!("{byte:02x}")).collect();
            let line = format!("### tuple ### allow tcp 1 ::/0 any ::/0 in comment={hex}");
            let tuples = parse(&line);
            prop_assert_eq!(tuples[0].comment.as_deref(), Some(comment.as_str()));
        }
    }
}
