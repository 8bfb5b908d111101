//! In which order services come and go, by what each depends on.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::ServiceName;

/// What each service depends on.
pub type Needs<'a> = BTreeMap<&'a ServiceName, &'a [ServiceName]>;

/// Services in steps: each depends on services of earlier steps only. Names that are not keys of `needs` count as there
/// already. `Err`: the services that wait for each other, and those that wait for them.
pub fn steps<'a>(needs: &Needs<'a>) -> Result<Vec<Vec<&'a ServiceName>>, Vec<&'a ServiceName>> {
    let mut left: BTreeMap<&ServiceName, BTreeSet<&ServiceName>> = needs
        .iter()
        .map(|(name, on)| (*name, on.iter().filter(|needed| needs.contains_key(needed)).collect()))
        .collect();
    let mut steps = Vec::new();
    while !left.is_empty() {
        let step: Vec<&ServiceName> =
            left.iter().filter(|(_, waits_for)| waits_for.is_empty()).map(|(name, _)| *name).collect();
        if step.is_empty() {
            return Err(left.into_keys().collect());
        }
        left.retain(|name, _| !step.contains(name));
        for waits_for in left.values_mut() {
            waits_for.retain(|name| !step.contains(name));
        }
        steps.push(step);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Vec<ServiceName> {
        words.split_whitespace().map(|word| ServiceName::new(word).unwrap()).collect()
    }

    fn told(all: &[(&str, &str)]) -> Result<Vec<String>, Vec<String>> {
        let all: Vec<_> = all.iter().map(|(name, on)| (ServiceName::new(*name).unwrap(), names(on))).collect();
        let needs: Needs<'_> = all.iter().map(|(name, on)| (name, on.as_slice())).collect();
        let words = |step: &Vec<&ServiceName>| step.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
        let owned = |names: Vec<&ServiceName>| names.iter().map(|name| name.to_string()).collect();
        steps(&needs).map(|steps| steps.iter().map(words).collect()).map_err(owned)
    }

    #[test]
    fn services_follow_what_they_depend_on() {
        assert_eq!(
            told(&[("web", "api"), ("api", "db cache"), ("db", ""), ("cache", ""), ("job", "db")]).unwrap(),
            ["cache db", "api job", "web"]
        );
        assert_eq!(told(&[("web", "gone")]).unwrap(), ["web"]);
        assert_eq!(told(&[]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_circle_names_who_waits() {
        assert_eq!(told(&[("a", "b"), ("b", "a"), ("c", "a"), ("d", "")]).unwrap_err(), ["a", "b", "c"]);
        assert_eq!(told(&[("a", "a")]).unwrap_err(), ["a"]);
    }
}
