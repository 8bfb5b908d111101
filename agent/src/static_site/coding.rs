//! Files that lie beside another one, compressed by the build (pure).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Gzip,
}

impl Coding {
    /// Smallest files first.
    const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// As Content-Encoding names it.
    pub(super) fn token(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// What the file's name has more than that of the plain one.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }
}

/// The codings a client takes, best first; one it gives a weight of zero is refused (RFC 9110 §12.5.3).
pub(super) fn accepted(headers: &HeaderMap) -> Vec<Coding> {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let offers: Vec<(&str, bool)> = values.flat_map(|value| value.split(',')).map(offer).collect();
    let takes = |token: &str| {
        let of = |wanted: &str| offers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        of(token).or_else(|| of("*")).is_some_and(|(_, wanted)| *wanted)
    };
    Coding::ALL.into_iter().filter(|coding| takes(coding.token())).collect()
}

/// `gzip;q=0.5`: the name, and whether it is wanted at all.
fn offer(text: &str) -> (&str, bool) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (name, weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_client_takes() {
        let cases: [(&str, &[Coding]); 7] = [
            ("", &[]),
            ("gzip, deflate, br", &[Coding::Brotli, Coding::Gzip]),
            ("GZIP;q=0.1", &[Coding::Gzip]),
            ("br;q=0, *", &[Coding::Gzip]),
            ("br; q=0.000, gzip;q=nonsense", &[]),
            ("identity", &[]),
            ("*;q=0, gzip", &[Coding::Gzip]),
        ];
        for (value, wanted) in cases {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]);
            assert_eq!(accepted(&headers), wanted, "{value}");
        }
        assert!(accepted(&HeaderMap::new()).is_empty());
    }
}
