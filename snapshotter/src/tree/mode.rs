//! Changes of permission bits, as chmod(1) writes them.

/// A text that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode {0:?}: want octal digits, or clauses such as u=rwX,go=rX")]
pub struct BadMode(pub String);

/// What becomes of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// These replace them all.
    Bits(u32),
    /// Changes, made in order.
    Symbolic(Vec<Clause>),
}

/// One change that a symbolic mode asks for: `go-w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clause {
    /// These bits go.
    Clear(u32),
    /// These bits come.
    Set(u32),
    /// These bits come to a directory, and to what somebody could execute before any change.
    SetIfExecutable(u32),
    /// The permissions of one class come to others, go from them, or replace theirs.
    Copy {
        /// The class, as a mask of its bits.
        from: u32,
        /// The others.
        to: u32,
        /// `+`, `-` or `=`.
        op: char,
    },
}

const STICKY: u32 = 0o1000;
/// All that `a` means, and what is cleared where no class is named. The sticky bit is nobody's.
const EVERYBODY: u32 = 0o6777;

impl ModeChange {
    /// Reads octal digits, or clauses separated by commas: `[ugoa]*([-+=][rwxXstugo]*)+`.
    ///
    /// Clauses mean what <https://man.freebsd.org/cgi/man.cgi?query=setmode&sektion=3> makes of them, without a umask.
    ///
    /// # Errors
    /// [`BadMode`] if it is neither.
    pub fn parse(text: &str) -> Result<ModeChange, BadMode> {
        let bad = || BadMode(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if bits <= 0o7777 { Ok(ModeChange::Bits(bits)) } else { Err(bad()) };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let split = part.find(['+', '-', '=']).ok_or_else(bad)?;
            let mut who = 0;
            for class in part[..split].chars() {
                who |= class_mask(class).ok_or_else(bad)?;
            }
            let mut rest = &part[split..];
            while let Some(op) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                change(who, op, &rest[1..end], &mut clauses).ok_or_else(bad)?;
                rest = &rest[end..];
            }
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    /// The bits that `mode` becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let clauses = match self {
            ModeChange::Bits(bits) => return bits & 0o7777,
            ModeChange::Symbolic(clauses) => clauses,
        };
        let is_executable = is_dir || mode & 0o111 != 0;
        clauses.iter().fold(mode & 0o7777, |mode, clause| match clause {
            Clause::Clear(bits) => mode & !bits,
            Clause::Set(bits) => mode | bits,
            Clause::SetIfExecutable(bits) => mode | if is_executable { *bits } else { 0 },
            Clause::Copy { from, to, op } => {
                let bits = (((mode & from) >> from.trailing_zeros()) * 0o111) & to;
                match op {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => mode & !to | bits,
                }
            }
        })
    }
}

/// What one operator with its permissions asks for; `None` if it makes no sense.
fn change(who: u32, op: char, permissions: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let (mut reach, mut bits, mut conditional) = (who, 0, 0);
    let mut is_settled = op != '=';
    // Others have neither set-id bits nor a sticky one.
    let only_others = who != 0 && who & !0o007 == 0;
    for c in permissions.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' if op != '-' => conditional = 0o111,
            // Of what nobody can execute nothing is taken.
            'X' => bits |= 0o111,
            's' if only_others => {}
            's' => bits |= 0o6000,
            't' if only_others => {}
            't' => (reach, bits) = (reach | STICKY, bits | STICKY),
            'u' | 'g' | 'o' => {
                flush(reach, op, bits, conditional, bits != 0, clauses);
                (bits, conditional, is_settled) = (0, 0, true);
                let to = if who == 0 { 0o777 } else { who & 0o777 };
                clauses.push(Clause::Copy { from: class_mask(c)? & 0o777, to, op });
            }
            _ => return None,
        }
    }
    flush(reach, op, bits, conditional, bits != 0 || !is_settled, clauses);
    Some(())
}

/// Adds the changes of bits that were named so far.
fn flush(who: u32, op: char, bits: u32, conditional: u32, is_due: bool, clauses: &mut Vec<Clause>) {
    let all = |named: u32| if who == 0 { named } else { who & named };
    if is_due {
        match op {
            '-' => clauses.push(Clause::Clear(all(bits))),
            '+' => clauses.push(Clause::Set(all(bits))),
            _ => clauses.extend([Clause::Clear(all(if who == 0 { EVERYBODY } else { who })), Clause::Set(all(bits))]),
        }
    }
    if conditional != 0 {
        clauses.push(Clause::SetIfExecutable(all(conditional)));
    }
}

fn class_mask(class: char) -> Option<u32> {
    Some(match class {
        'u' => 0o4700,
        'g' => 0o2070,
        'o' => 0o007,
        'a' => EVERYBODY,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_does() {
        // As the builds of other builders have them.
        let cases = [
            ("0", 0o755, false, 0),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a-X", 0o755, false, 0o644),
            ("a+x", 0o640, false, 0o751),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o750, false, 0o770),
            ("o=g-w", 0o770, false, 0o775),
            ("+w", 0o444, false, 0o666),
            ("=r", 0o777, false, 0o444),
            ("a-x+X", 0o755, false, 0o755),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("u+t", 0o644, false, 0o1644),
            ("o+t", 0o644, false, 0o644),
            ("o+s", 0o644, false, 0o644),
            ("u=rw", 0o7777, true, 0o3677),
            ("g=rx", 0o7777, false, 0o5757),
            ("o=r", 0o7777, false, 0o7774),
            ("a=rx", 0o7777, true, 0o1555),
            ("=t", 0o7777, false, 0o7777),
            ("=s", 0o7777, false, 0o7000),
            ("u=g", 0o7777, false, 0o7777),
            ("u=go", 0o4751, false, 0o4151),
            ("u=rg", 0o644, false, 0o444),
            ("o=", 0o777, false, 0o770),
            ("+", 0o644, false, 0o644),
        ];
        for (text, before, is_dir, after) in cases {
            let changed = ModeChange::parse(text).unwrap().apply(before, is_dir);
            assert_eq!(changed, after, "{text} of {before:o} (directory: {is_dir}) is {changed:o}");
        }
    }

    #[test]
    fn texts_that_are_no_modes_are_refused() {
        for text in ["", "8", "10000", "u", "u=q", "z+r", "u+r,", "-8x", "u=rw go=r"] {
            assert_eq!(ModeChange::parse(text), Err(BadMode(text.to_owned())));
        }
    }
}
