//! The page on RFC 9293 against what the code cites.

use std::collections::BTreeSet;

use super::scan::{File, files};

const PAGE: &str = "docs/rfc9293.md";

/// Numbers such as `MUST-12` in a text.
fn numbers(text: &str) -> BTreeSet<&str> {
    let kinds = ["MUST-", "SHLD-", "MAY-"];
    let found = kinds.iter().flat_map(|kind| text.match_indices(kind));
    let number = |(at, kind): (usize, &str)| {
        let digits = text[at + kind.len()..].bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then(|| &text[at..at + kind.len() + digits])
    };
    found.filter_map(number).collect()
}

/// Where the page and the code differ.
fn differences(page: &str, code: &[&str]) -> Vec<String> {
    let cited: BTreeSet<_> = code.iter().flat_map(|text| numbers(text)).collect();
    let rows = page.lines().filter(|line| line.starts_with("| M") || line.starts_with("| S"));
    let rows: Vec<_> = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>()).collect();
    // What is met by something that is absent stands nowhere in the code.
    let is_met = |here: &str| here.split([';', ':', ',', ' ']).next() == Some("met") && !here.starts_with("met by");
    let met: BTreeSet<_> =
        rows.iter().filter(|row| is_met(row[3]) || row[3].starts_with("R2 met")).map(|row| row[1]).collect();
    let all: BTreeSet<_> = rows.iter().map(|row| row[1]).collect();
    let uncited = met.difference(&cited).map(|number| format!("{number} is met by no code that cites it"));
    let unlisted = cited.difference(&met).map(|number| format!("{number} is cited, and not met on the page"));
    let twice = (all.len() < rows.len()).then(|| "a requirement has two rows".to_owned());
    uncited.chain(unlisted).chain(twice).collect()
}

#[test]
fn page_on_rfc_9293_and_citations_in_the_code_agree() {
    let files = files();
    let is_code = |file: &&File| file.path.starts_with("netstack/src/") && !file.path.contains("/tests");
    let code: Vec<_> = files.iter().filter(is_code).map(|file| &*file.text).collect();
    let page = &files.iter().find(|file| file.path == PAGE).expect("the page").text;
    assert!(numbers(page).len() > 80, "the page has its rows");
    let differences = differences(page, &code);
    assert!(differences.is_empty(), "{PAGE}: {}", differences.join("\n"));
}

#[test]
fn differences_are_seen() {
    let page =
        "| MUST-1 | a | met |\n| MUST-2 | b | not |\n| SHLD-3 | c | met by absence |\n| MUST-4 | d | met: so |\n";
    assert_eq!(differences(page, &["// (MUST-1) (MUST-4)"]), [""; 0]);
    assert_eq!(differences(page, &["// MUST-1"]), ["MUST-4 is met by no code that cites it"]);
    let more = differences(page, &["// MUST-1, MUST-2, MUST-4, MAY-9"]);
    assert_eq!(more, ["MAY-9 is cited, and not met on the page", "MUST-2 is cited, and not met on the page"]);
    assert_eq!(differences(&page.repeat(2), &["MUST-1 MUST-4"]), ["a requirement has two rows"]);
}
