//! Two devices share a space and edit the same note: run with `cargo run --example notes`.

use serde_json::json;
use syncline::node::info::InvitationTerms;
use syncline::{Node, Role, Strings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let directory = tempfile::tempdir()?;
    let device = |name: &str| {
        Node::builder().data(directory.path().join(name)).create(true).listen("/ip4/127.0.0.1/tcp/0").mdns(false)
    };
    let (laptop, phone) = (device("laptop").start().await?, device("phone").start().await?);

    // The laptop founds a space and invites; the ticket is what a person would copy to the phone.
    let created = laptop.create_space("notes", Strings::Scalar).await?;
    let notes = created.space;
    notes.put("shopping/today", json!({"title": "Shopping", "items": ["bread"]})).await?;
    let terms = InvitationTerms { role: Role::Writer, uses: 1, lasts_ms: 3_600_000 };
    let ticket = notes.invite(terms).await?.to_string();

    // The phone joins, waits for the note, and edits another field than the laptop.
    let copy = phone.join(&ticket, None).await?;
    while copy.get("shopping/today").await?.is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    copy.patch("shopping/today", json!({"items": ["bread", "milk"]})).await?;
    notes.patch("shopping/today", json!({"title": "Shopping, Saturday"})).await?;

    let merged = json!({"title": "Shopping, Saturday", "items": ["bread", "milk"]});
    while notes.get("shopping/today").await?.map(|note| note.value).as_ref() != Some(&merged) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    #[expect(clippy::print_stdout, reason = "an example shows what it did")]
    {
        println!("{merged:#}");
    }
    phone.shutdown().await;
    laptop.shutdown().await;
    Ok(())
}
