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
    /// Clauses, applied in order.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode: `go-w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// The classes it is about, as a mask of `0o700`, `0o070`, `0o007`.
    who: u32,
    /// None was named: then the umask of the reference (022) protects its bits.
    masked: bool,
    op: char,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Bits { rwx: u32, conditional_x: bool, set_id: bool, sticky: bool },
    CopyOf(u32),
}

const UMASK: u32 = 0o022;

impl ModeChange {
    /// Reads octal digits, or clauses separated by commas: `[ugoa]*[-+=]([rwxXst]*|[ugo])`.
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
            let masked = split == 0;
            let who = if masked { 0o777 } else { who };
            let mut rest = &part[split..];
            while let Some(op) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                let what = permissions(&rest[1..end]).ok_or_else(bad)?;
                clauses.push(Clause { who, masked, op, what });
                rest = &rest[end..];
            }
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    /// The bits that `mode` becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            ModeChange::Bits(bits) => bits & 0o7777,
            ModeChange::Symbolic(clauses) => {
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir))
            }
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let who = if self.masked { self.who & !UMASK } else { self.who };
        let mut bits = match self.what {
            What::CopyOf(class) => {
                let shift = class.trailing_zeros();
                (((mode & class) >> shift) * 0o111) & who
            }
            What::Bits { rwx, conditional_x, set_id, sticky } => {
                let x = if conditional_x && (is_dir || mode & 0o111 != 0) { 1 } else { 0 };
                let mut bits = ((rwx | x) * 0o111) & who;
                if set_id {
                    bits |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    bits |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                if sticky && (self.masked || self.who & 0o007 != 0) {
                    bits |= 0o1000;
                }
                bits
            }
        };
        match self.op {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => {
                let mut cleared = self.who;
                // As chmod(1): a directory keeps its set-id bits unless they are named.
                if !is_dir {
                    cleared |= if self.who & 0o700 != 0 { 0o4000 } else { 0 };
                    cleared |= if self.who & 0o070 != 0 { 0o2000 } else { 0 };
                }
                cleared |= if self.who & 0o007 != 0 { 0o1000 } else { 0 };
                bits &= 0o7777;
                mode & !cleared | bits
            }
        }
    }
}

fn class_mask(class: char) -> Option<u32> {
    Some(match class {
        'u' => 0o700,
        'g' => 0o070,
        'o' => 0o007,
        'a' => 0o777,
        _ => return None,
    })
}

fn permissions(text: &str) -> Option<What> {
    if let ("u" | "g" | "o", Some(class)) = (text, text.chars().next()) {
        return class_mask(class).map(What::CopyOf);
    }
    let (mut rwx, mut conditional_x, mut set_id, mut sticky) = (0, false, false, false);
    for c in text.chars() {
        match c {
            'r' => rwx |= 4,
            'w' => rwx |= 2,
            'x' => rwx |= 1,
            'X' => conditional_x = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(What::Bits { rwx, conditional_x, set_id, sticky })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_does() {
        let cases = [
            ("0", 0o755, false, 0),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o640, false, 0o751),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o750, false, 0o770),
            ("o=g-w", 0o770, false, 0o775),
            ("+w", 0o444, false, 0o644),
            ("=r", 0o777, false, 0o444),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("u=rw", 0o4755, false, 0o655),
            ("u=rwx", 0o2755, true, 0o2755),
            ("o=", 0o777, false, 0o770),
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
