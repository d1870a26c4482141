//! The difference between two texts, as `diff -u` shows it. Pure.

#![deny(clippy::disallowed_methods)]

/// Lines of a text that stay, around a change.
const CONTEXT: usize = 3;

/// One line of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Where a change is.
    Place(String),
    /// It stays.
    Same(String),
    /// It goes.
    Removed(String),
    /// It comes.
    Added(String),
}

/// What makes `after` of `before`. Empty when they are the same.
pub fn difference(before: &str, after: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let all = aligned(&old, &new);
    let changed = |line: &Line| !matches!(line, Line::Same(_));
    let near = |index: usize| {
        let (from, to) = (index.saturating_sub(CONTEXT), (index + CONTEXT + 1).min(all.len()));
        all.get(from..to).unwrap_or_default().iter().any(changed)
    };
    let (mut at_old, mut at_new) = (1, 1);
    let mut shown: Vec<Line> = Vec::new();
    let mut open = false;
    for (index, line) in all.iter().enumerate() {
        if near(index) {
            if !open {
                shown.push(Line::Place(format!("@@ -{at_old} +{at_new} @@")));
            }
            shown.push(line.clone());
        }
        open = near(index);
        at_old += usize::from(!matches!(line, Line::Added(_)));
        at_new += usize::from(!matches!(line, Line::Removed(_)));
    }
    shown
}

/// Every line of both, those they share as long as possible. The lines of pullgate are few: what comes before and after
/// the changes is set aside first.
fn aligned(old: &[&str], new: &[&str]) -> Vec<Line> {
    let same = |line: &&str| Line::Same((*line).to_owned());
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let old_rest = old_rest.get(..old_rest.len() - tail).unwrap_or_default();
    let new_rest = new_rest.get(..new_rest.len() - tail).unwrap_or_default();
    let mut lines: Vec<Line> = old.iter().take(head).map(same).collect();
    lines.extend(middle(old_rest, new_rest));
    lines.extend(old.iter().skip(old.len() - tail).map(same));
    lines
}

fn middle(old: &[&str], new: &[&str]) -> Vec<Line> {
    // longest[i][j]: lines that old[i..] and new[j..] share.
    let mut longest = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] =
                if old[i] == new[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i].to_owned()));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            lines.push(Line::Removed(old[i].to_owned()));
            i += 1;
        } else {
            lines.push(Line::Added(new[j].to_owned()));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(before: &str, after: &str) -> String {
        let line = |line: Line| match line {
            Line::Place(text) => text,
            Line::Same(text) => format!(" {text}"),
            Line::Removed(text) => format!("-{text}"),
            Line::Added(text) => format!("+{text}"),
        };
        difference(before, after).into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn changes_are_shown_with_what_is_around_them() {
        assert_eq!(text("a\nb\n", "a\nb\n"), "");
        assert_eq!(text("", "a\nb\n"), "@@ -1 +1 @@\n+a\n+b");
        assert_eq!(text("a\nb\n", ""), "@@ -1 +1 @@\n-a\n-b");
        let before: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let after = before.replace("10\n", "ten\n") + "21\n";
        let expected = "@@ -7 +7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n@@ -18 +18 @@\n 18\n 19\n 20\n+21";
        assert_eq!(text(&before, &after), expected);
        assert_eq!(text("a\nb\nc\n", "x\nb\ny\n"), "@@ -1 +1 @@\n-a\n+x\n b\n-c\n+y");
    }
}
