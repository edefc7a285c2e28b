use super::*;

const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

fn parse(text: &str) -> Htpasswd {
    Htpasswd::parse(text.as_bytes())
}

/// Returns the warnings of a text that also has one usable line, at its end.
fn warnings(text: &str) -> Vec<(usize, Reason)> {
    let table = parse(&format!("{text}\nlast:{HASH}\n"));
    table.warnings().iter().map(|w| (w.line, w.reason.clone())).collect()
}

#[test]
fn the_line_that_apache_writes_is_read_and_its_password_verifies() {
    let table = parse(&format!("alice:{HASH}\n"));
    let line = table.line("alice").unwrap();
    assert_eq!((line.name().as_str(), line.cost(), line.number()), ("alice", 5, 1));
    assert!(bcrypt::verify("myPassword", line.hash()).unwrap());
    assert!(!bcrypt::verify("mypassword", line.hash()).unwrap());
}

#[test]
fn the_three_bcrypt_prefixes_mean_the_same() {
    for prefix in ["$2a$", "$2b$", "$2y$"] {
        let table = parse(&format!("a:{}", HASH.replace("$2y$", prefix)));
        assert!(bcrypt::verify("myPassword", table.line("a").unwrap().hash()).unwrap());
    }
}

#[test]
fn other_hashes_are_named_by_line_and_never_used() {
    let vectors = [
        "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
        "$apr1$qHDFfhPC$nITSVHgYbDAK1Y0acGRnY0",
        "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=",
        "rqXexS6ZhobKA",
        "$5$salt$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
        "$6$salt$x",
        "$2x$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
        "myPassword",
        "",
    ];
    for hash in vectors {
        assert_eq!(warnings(&format!("bob:{hash}")), [(1, Reason::NotBcrypt)], "{hash}");
    }
}

#[test]
fn blank_lines_comments_carriage_returns_and_a_byte_order_mark_are_skipped() {
    let table = parse(&format!("\u{feff}# users\r\n\r\n   \n\talice:{HASH}  \r\n#bob:{HASH}\n"));
    assert_eq!((table.users(), table.warnings().len()), (1, 0));
    assert_eq!(table.line("alice").unwrap().number(), 4);
}

#[test]
fn unusable_lines_are_warned_about_by_number() {
    let text = format!(
        "nocolon\n:{HASH}\nanonymous:{HASH}\nteam-*:{HASH}\nbob:{}\nbob:{}",
        &HASH[..59],
        HASH.replace("$05$", "$31$")
    );
    let expected = [
        (1, Reason::NoColon),
        (2, Reason::Name(UserNameError::Empty)),
        (3, Reason::Name(UserNameError::Reserved)),
        (4, Reason::Name(UserNameError::Pattern('*'))),
        (5, Reason::Damaged),
        (6, Reason::Cost),
    ];
    assert_eq!(warnings(&text), expected);
}

#[test]
fn bytes_that_are_not_text_spoil_their_line_only() {
    let mut bytes = b"b\xffb:x\n".to_vec();
    bytes.extend_from_slice(format!("alice:{HASH}\n").as_bytes());
    let table = Htpasswd::parse(&bytes);
    assert_eq!(table.warnings(), [Warning { line: 1, reason: Reason::NotText }]);
}

#[test]
fn a_warning_never_repeats_the_line() {
    let table = parse(&format!("hunter2\nbob:hunter2\nhunter2*:x\nalice:{HASH}"));
    let text: String = table.warnings().iter().map(|w| format!("{w} {w:?}")).collect();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!format!("{table:?}").contains("c4WoMPo3"));
}

#[test]
fn a_later_line_for_the_same_name_wins_and_the_earlier_is_named() {
    let table = parse(&format!("a:{HASH}\nb:{HASH}\na:{}\n", HASH.replace("$05$", "$06$")));
    assert_eq!(table.line("a").unwrap().cost(), 6);
    assert_eq!(
        table.warnings()[0].to_string(),
        "line 1: the name is repeated on line 3, and the later line is used"
    );
}

#[test]
fn the_costliest_hash_is_known() {
    let table = parse(&format!("a:{HASH}\nb:{}\nc:{HASH}", HASH.replace("$05$", "$12$")));
    assert_eq!(table.costliest(), 12);
}

#[test]
fn a_file_without_a_usable_line_has_no_users() {
    for text in ["", "# nobody yet\nbob:plain\n", "\n\n"] {
        let table = parse(text);
        assert_eq!((table.users(), table.costliest(), table.is_another_file()), (0, 10, false), "{text}");
    }
    assert!(parse("[server]\naddress = 1\n").is_another_file());
}

#[test]
fn a_comment_may_follow_the_hash() {
    for text in [format!("a:{HASH}:Alice, since 2019"), format!("a:{HASH}:"), format!("a:{HASH}:x:y")] {
        assert_eq!(&**parse(&text).line("a").unwrap().hash(), HASH, "{text}");
    }
}

#[test]
fn the_last_line_of_a_name_counts_also_an_unusable_one() {
    let table = parse(&format!("a:{HASH}\nb:{HASH}\na:!locked\n"));
    assert!(table.line("a").is_none() && table.names("a") && table.users() == 1);
    let expected = [(1, Reason::Overridden(3)), (3, Reason::NotBcrypt)];
    assert_eq!(table.warnings().iter().map(|w| (w.line, w.reason.clone())).collect::<Vec<_>>(), expected);
    assert!(parse(&format!("a:!locked\na:{HASH}\n")).line("a").is_some());
}

#[test]
fn a_name_ends_at_the_first_colon() {
    assert_eq!(warnings(&format!("a:b:{HASH}")), [(1, Reason::NotBcrypt)]);
}
