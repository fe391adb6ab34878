//! The calls that fanout's own stub of the external system has had. Another
//! system cannot be asked.

use std::time::Duration;

use serde::Deserialize;

use super::{
    VerifyError,
    ledger::{Calls, Sha},
};
use crate::{
    clients::web::{Method, Web, WebError},
    config::Settings,
    operations::stub::SYSTEM,
};

/// Calls in one question.
const PAGE: usize = 1_000;

const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
struct Page {
    system: String,
    next: Option<u64>,
    events: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    key: String,
    sha256: String,
}

/// All calls the stub has had; none where it is not fanout's stub.
pub(super) async fn calls(settings: &Settings) -> Result<Option<Calls>, VerifyError> {
    let web = Web::new(TIMEOUT)?;
    let mut calls = Calls::default();
    let mut after = Some(0);
    while let Some(place) = after {
        let page = match page(&web, settings, &format!("after={place}")).await? {
            Some(page) => page,
            None if place == 0 => return Ok(None),
            // It was the stub a moment ago: its list is cut short.
            None => return Err(VerifyError::StubDocument),
        };
        for listed in page.events {
            let sha = sha(&listed.sha256).ok_or(VerifyError::StubDocument)?;
            calls.had(&listed.key, sha);
        }
        after = page.next;
    }
    Ok(Some(calls))
}

async fn page(web: &Web, settings: &Settings, which: &str) -> Result<Option<Page>, WebError> {
    let base = settings.external.url.trim_end_matches('/');
    let path = &settings.external.events_path;
    let url = format!("{base}{path}?limit={PAGE}&bodies=false&{which}");
    let answer = web.send(Method::GET, &url, None).await?;
    let page = serde_json::from_str::<Page>(&answer.body).ok();
    Ok(page.filter(|page| answer.is_success() && page.system == SYSTEM))
}

fn sha(text: &str) -> Option<Sha> {
    let mut sha = Sha::default();
    for (byte, at) in sha.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(sha)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_from_its_hexadecimal() {
        let sha = sha(&"0fA1".repeat(16)).expect("64 digits");
        assert_eq!(sha[..2], [0x0f, 0xa1]);
        assert_eq!(super::sha("0f"), None);
        assert_eq!(super::sha(&"zz".repeat(32)), None);
    }
}
