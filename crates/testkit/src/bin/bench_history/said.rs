//! What is said in a made-up history: the same words for the same number whenever they are asked for.

use std::fmt::Write as _;

/// One message of so many has a number in it that no other has.
pub(crate) const NUMBERED: u32 = 50;
/// Of one message in twenty, in each of the languages.
pub(crate) const FREQUENT: [&str; 2] = ["refund", "退款"];
/// Different words of a language; most are rare.
const VOCABULARY: u32 = 10_000;
const SYLLABLES: [&str; 20] = [
    "ba", "be", "do", "da", "fi", "go", "ha", "ki", "ka", "lo", "le", "mi", "na", "no", "pa", "ro", "sa", "ti", "tu",
    "we",
];

/// `SplitMix64`: spreads whatever it is given, and is the same in every run.
pub(crate) fn mixed(seed: u64) -> u64 {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A number below `limit`, from one that is spread over all of its own.
pub(crate) fn below(spread: u64, limit: u32) -> u32 {
    u32::try_from(spread % u64::from(limit)).unwrap_or_default()
}

fn is_chinese(number: u32) -> bool {
    number / 2 % 2 == 1
}

/// The words of a message, the same whenever they are asked for.
pub(crate) fn text(number: u32) -> String {
    let mut text = String::new();
    let mut seed = u64::from(number);
    let mut any = || {
        seed = mixed(seed);
        below(seed, VOCABULARY)
    };
    let chinese = is_chinese(number);
    for place in 0..8 {
        // A product of evenly spread numbers is small more often than not, as frequent words are.
        let word = any() * any() / VOCABULARY * any() / VOCABULARY;
        if chinese {
            text.extend([0x4e00 + word / 40 * 3, 0x5a00 + word % 40 * 7].map(character));
            text.push_str(if place == 4 { "，" } else { "" });
        } else {
            text.extend([word % 20, word / 20 % 20, word / 400 % 20, word / 8_000].map(syllable));
            text.push(' ');
        }
    }
    if [4, 6].contains(&(number % 20)) {
        text.push_str(FREQUENT[usize::from(chinese)]);
    }
    if number.is_multiple_of(NUMBERED) {
        let _ = write!(text, " {}", number_in(number));
    }
    text
}

fn character(code: u32) -> char {
    char::from_u32(code).unwrap_or('字')
}

fn syllable(number: u32) -> &'static str {
    SYLLABLES[number as usize % SYLLABLES.len()]
}

/// What is said in this message alone.
pub(crate) fn number_in(number: u32) -> String {
    let what = if is_chinese(number) { "订单" } else { "order" };
    format!("{what} {number:010}")
}

#[cfg(test)]
mod tests {
    use astrfleet_core::search::Query;

    use super::*;

    #[test]
    fn what_was_said_once_is_found_once() {
        let messages = 10_000;
        for number in [0, 50, 100, 9_950] {
            let query = Query::parse(&number_in(number)).unwrap();
            let found: Vec<u32> = (0..messages).filter(|number| query.hits(&text(*number)).is_some()).collect();
            assert_eq!(found, [number]);
        }
        for word in FREQUENT {
            let query = Query::parse(word).unwrap();
            assert!((0..messages).filter(|number| query.hits(&text(*number)).is_some()).count() >= 500, "{word}");
        }
    }
}
