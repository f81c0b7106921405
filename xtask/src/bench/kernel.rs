//! How a node bears many agents: the first and the last of them, beside a process that is none.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{agents::Agent, memory, probe::Job};

/// Lets the probes reach the listener that takes everybody.
fn policy(port: u16) -> String {
    format!("schema = 1\nagent = \"bench\"\n[network]\nloopback = [{port}]\n")
}

/// Who is measured, in the order of the columns.
const WHO: [&str; 4] = ["unconfined", "first of 1", "first of all", "last of all"];

pub(super) fn run(agents: u32, rounds: u32) -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for audit files")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a listener")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || listener.incoming().for_each(drop));
    let policy_file = folder.path().join("policy.toml");
    fs::write(&policy_file, policy(port))?;

    let mut free = Agent::free()?;
    let mut first = confined(folder.path(), &policy_file, 1)?;
    let jobs = [
        ("socket(2), TCP", Job::Socket),
        ("connect(2), let through", Job::Connect(port)),
        ("connect(2) of UDP, refused", Job::Datagram),
    ];
    let mut alone = Vec::new();
    for (_, job) in jobs {
        alone.push(in_turn(rounds, &mut [&mut free, &mut first], job)?);
    }

    let before = memory::available()?;
    let begun = Instant::now();
    let mut others = Vec::new();
    for number in 2..=agents {
        others.push(confined(folder.path(), &policy_file, number)?);
    }
    let filled = begun.elapsed();
    let used = before.saturating_sub(memory::available()?);
    println!(
        "{agents} agents on this node; the other {} took {:.1} s to start",
        agents - 1,
        filled.as_secs_f64()
    );
    println!("start, to the agent's first line:");
    println!("  unconfined {:8.1} ms", millis(&free));
    println!("  first      {:8.1} ms", millis(&first));
    if let Some(last) = others.last() {
        println!("  last       {:8.1} ms", millis(last));
    }
    println!("memory, processes of one run / its BPF maps and programs:");
    tell_memory("first", &first)?;
    if let Some(last) = others.last() {
        tell_memory("last", last)?;
        println!(
            "  all others together took {:.1} MiB each of what was free",
            mebibytes(used) / f64::from(agents - 1)
        );
    }

    println!("one call, median of {rounds} rounds, ns (and × unconfined in the same rounds):");
    println!(
        "  {:<28}{:>20}{:>20}{:>20}{:>20}",
        "", WHO[0], WHO[1], WHO[2], WHO[3]
    );
    for ((name, job), alone) in jobs.into_iter().zip(alone) {
        let mut cells = vec![format!("{}", alone[0]), cell(alone[1], alone[0])];
        if let Some(last) = others.last_mut() {
            let crowded = in_turn(rounds, &mut [&mut free, &mut first, last], job)?;
            cells.push(cell(crowded[1], crowded[0]));
            cells.push(cell(crowded[2], crowded[0]));
        }
        let cells: String = cells.iter().map(|cell| format!("{cell:>20}")).collect();
        println!("  {name:<28}{cells}");
    }
    Ok(())
}

fn confined(folder: &Path, policy: &Path, number: u32) -> Result<Agent> {
    Agent::confined(policy, &folder.join(format!("{number}.jsonl")))
        .with_context(|| format!("agent {number}"))
}

/// Medians over the rounds, in each of which everybody has one turn.
fn in_turn(rounds: u32, agents: &mut [&mut Agent], job: Job) -> Result<Vec<u64>> {
    let mut taken: Vec<Vec<u64>> = vec![Vec::new(); agents.len()];
    for _ in 0..rounds {
        for (agent, taken) in agents.iter_mut().zip(&mut taken) {
            taken.push(agent.measure(job)?);
        }
    }
    Ok(taken.into_iter().map(median).collect())
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn cell(taken: u64, unconfined: u64) -> String {
    format!("{taken} (× {:.2})", taken as f64 / unconfined.max(1) as f64)
}

fn millis(agent: &Agent) -> f64 {
    agent.start.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn tell_memory(who: &str, agent: &Agent) -> Result<()> {
    println!(
        "  {who:<6} {:6.1} MiB / {:5.2} MiB",
        mebibytes(memory::proportional(agent.pid())?),
        mebibytes(memory::of_bpf(agent.pid())?)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![9, 1, 5]), 5);
        assert_eq!(median(vec![]), 0);
    }
}
