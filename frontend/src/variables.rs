//! Variables in the order of their last assignment, however many there are.

use std::collections::HashMap;

use smol_str::SmolStr;

use crate::expand::Env;

/// Variables with their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    /// In order; what was assigned again left a gap.
    pairs: Vec<Option<(SmolStr, SmolStr)>>,
    places: HashMap<SmolStr, usize>,
}

impl Variables {
    /// Sets a variable; it becomes the last one.
    pub fn set(&mut self, name: &str, value: &str) {
        if self.pairs.len() > 64 && self.pairs.len() > 2 * self.places.len() {
            self.close_gaps();
        }
        let last = self.pairs.len();
        let place = match self.places.get_mut(name) {
            Some(place) => std::mem::replace(place, last),
            None => {
                self.places.insert(name.into(), last);
                last
            }
        };
        let known = self.pairs.get_mut(place).and_then(Option::take);
        let name = known.map_or_else(|| name.into(), |(name, _)| name);
        self.pairs.push(Some((name, value.into())));
    }

    fn close_gaps(&mut self) {
        self.pairs.retain(Option::is_some);
        let names = self.pairs.iter().flatten().map(|(name, _)| name.clone());
        self.places = names.enumerate().map(|(place, name)| (name, place)).collect();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// How many bytes they have in all.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Variables {
        let mut variables = Variables::default();
        pairs.into_iter().for_each(|(name, value)| variables.set(&name, &value));
        variables
    }
}

impl Env for Variables {
    fn value(&self, name: &str) -> Option<&str> {
        self.pairs.get(*self.places.get(name)?)?.as_ref().map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_counts_and_comes_last() {
        let mut variables = Variables::default();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            variables.set(name, value);
        }
        assert_eq!(variables.iter().collect::<Vec<_>>(), [("b", "2"), ("a", "3")]);
        assert_eq!((variables.value("a"), variables.value("c")), (Some("3"), None));
    }

    #[test]
    fn many_assignments_take_no_more_room_than_their_variables() {
        let mut variables = Variables::default();
        for n in 0..10_000 {
            variables.set(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string());
        }
        assert_eq!(variables.iter().collect::<Vec<_>>(), [("even", "9998"), ("odd", "9999")]);
        assert!(variables.pairs.len() <= 65);
    }
}
