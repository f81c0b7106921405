//! Probes.
#[cfg(test)]
mod tests {
    use super::super::{cgroup::*, *};
    #[test]
    fn raise() {
        let root = bpffs::root().unwrap();
        let runs = bpffs::runs_cgroup().unwrap();
        let run = format!("probe-{}", std::process::id());
        let agent = Cgroup::create(runs.join(&run).join("agent")).unwrap();
        let gateway = Cgroup::create(runs.join(&run).join("gateway")).unwrap();
        let pins = bpffs::Pins::create(&root, &run).unwrap();
        let spec = AgentSpec::new(&crate::policy::Policy::tmp(), agent.id().unwrap(), 4444);
        let r = Boundary::raise(&spec, &agent, &gateway, pins);
        match r {
            Ok(b) => {
                for l in std::fs::read_dir(root.join(&run).join("links")).unwrap() {
                    println!("{:?}", l.unwrap().path());
                }
                b.lower().unwrap()
            }
            Err(e) => {
                let mut s: Option<&dyn std::error::Error> = Some(&e);
                while let Some(x) = s {
                    println!("E: {x}");
                    s = x.source();
                }
                agent.remove().unwrap();
                gateway.remove().unwrap();
                panic!()
            }
        }
        agent.remove().unwrap();
        gateway.remove().unwrap();
        Cgroup::adopt(runs.join(&run)).remove().unwrap();
    }
}
