//! Writes audit records to the file it is given until it is killed: for tests of what a crash
//! leaves behind.

use gateway_userspace::{
    audit::{Audit, AuditConfig, Kind, Outcome, Record, Subject},
    identity::Assurance,
    names::{AgentId, PolicyDigest},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1);
    let path = path.ok_or_else(|| anyhow::anyhow!("usage: audit-writer FILE"))?;
    let audit = Audit::open(AuditConfig::path(path))?;
    let subject = Subject {
        agent: AgentId::parse("killed")?,
        assurance: Assurance::Cooperative,
        policy: PolicyDigest([0; 32]),
    };
    loop {
        let time = jiff::Timestamp::now();
        let record = Record::new(&subject, time, Kind::Tcp, Outcome::Allow, "test");
        audit.reserve().await?.write(record);
    }
}
