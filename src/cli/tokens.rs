//! Commands on API tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Method;
use syncline::api::body::{CreatedToken, SpaceList, Token, TokenList, TokenRequest, TokenScope};

use super::access::{Access, Target};
use super::arguments::{ScopeArgument, TokenCommand};
use super::duration::humane_duration;
use super::failure::Failure;
use super::output::{Output, note, plain};

pub(super) async fn token(access: &Access, command: TokenCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { scope, space, name, expires } => {
            let scope = match scope {
                ScopeArgument::Read => TokenScope::Read,
                ScopeArgument::Write => TokenScope::Write,
                ScopeArgument::Admin => TokenScope::Admin,
            };
            create(access, &TokenRequest { scope, space, name, lasts_ms: expires }, output).await
        }
        TokenCommand::List => list(access, output).await,
        TokenCommand::Revoke { id } => access.order(Method::DELETE, &Target::new(["tokens", &id])).await,
    }
}

async fn create(access: &Access, request: &TokenRequest, output: &mut Output) -> Result<(), Failure> {
    let created: CreatedToken = access.send_json(Method::POST, &Target::new(["tokens"]), request).await?;
    if output.json {
        return output.json(&created);
    }
    output.line(&created.token)?;
    output.flush()?;
    note(format_args!(
        "Hand it over like a password: it is shown this once, and stored nowhere. `syncline token revoke {}` ends it.",
        created.known.id
    ));
    Ok(())
}

async fn list(access: &Access, output: &mut Output) -> Result<(), Failure> {
    let list: TokenList = access.get(&Target::new(["tokens"])).await?;
    if output.json {
        return output.json(&list);
    }
    if list.tokens.is_empty() {
        return output.line("no tokens but the owner's own: `syncline token create` makes one");
    }
    let spaces: SpaceList = access.get(&Target::new(["spaces"])).await?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let rows: Vec<Vec<String>> = list.tokens.iter().map(|token| row(token, &spaces, now_ms)).collect();
    output.table(&["id", "scope", "space", "ends", "name"], &rows)
}

fn row(token: &Token, spaces: &SpaceList, now_ms: u64) -> Vec<String> {
    let scope = match token.scope {
        TokenScope::Read => "read",
        TokenScope::Write => "write",
        TokenScope::Admin => "admin",
    };
    let space = token.space.as_ref().map_or_else(
        || "all".to_owned(),
        |id| spaces.spaces.iter().find(|space| space.id == *id).map_or_else(|| id.clone(), |space| plain(&space.name)),
    );
    let ends = match token.expires_ms {
        None => "never".to_owned(),
        Some(_) if token.expired => "expired".to_owned(),
        Some(end) => format!("in {}", humane_duration(end.saturating_sub(now_ms))),
    };
    let name = token.name.as_deref().map(plain).unwrap_or_default();
    vec![token.id.clone(), scope.to_owned(), space, ends, name]
}
