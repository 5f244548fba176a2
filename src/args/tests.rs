use super::*;
use crate::bpf::{Map, MapSizes};

fn read(arguments: &str) -> Result<Command, clap::Error> {
    Command::read(arguments.split_whitespace().map(OsString::from))
}

#[test]
fn the_definition_is_consistent() {
    Raw::command().debug_assert();
}

#[test]
fn without_flags_the_kernel_side_has_its_own_defaults() {
    let Ok(Command::Run(run)) = read("palisade run --from shop") else {
        panic!("run is not read");
    };
    assert_eq!(run.kernel, Config::default());
    assert_eq!(run.listen, "127.0.0.1:9810".parse().unwrap());
    assert_eq!(
        (run.from, run.log_format),
        (From::Folder("shop".into()), LogFormat::Text)
    );
}

fn in_cluster(flags: &str) -> Result<Cluster, String> {
    match read(&format!("palisade run {flags}")) {
        Ok(Command::Run(Run {
            from: From::Cluster(cluster),
            ..
        })) => Ok(cluster),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn without_a_folder_it_runs_in_a_cluster_and_the_agent_needs_its_node() {
    let cluster = in_cluster("--node-name a --cni strict --socket /tmp/s").unwrap();
    assert!(cluster.controller);
    let node = cluster.agent.unwrap();
    assert_eq!(&*node.name, "a");
    let expected = install::Config {
        conf_dir: "/etc/cni/net.d".into(),
        bin_dir: "/opt/cni/bin".into(),
        mode: Mode::Strict,
        socket: "/tmp/s".into(),
    };
    assert_eq!(node.cni, Some(expected));
    let node = in_cluster("--node-name a").unwrap().agent.unwrap();
    assert_eq!(node.cni, None);
    assert_eq!(in_cluster("--agent off").map(|c| c.agent), Ok(None));
    if std::env::var_os("NODE_NAME").is_none() {
        assert!(in_cluster("").unwrap_err().contains("--node-name"));
    }
    assert!(
        in_cluster("--agent=off --controller=off")
            .unwrap_err()
            .contains("nothing to do")
    );
}

#[test]
fn each_capacity_flag_sets_its_own_map() {
    let flags = "--max-pods 1 --max-addresses 2 --max-networks 3 --max-sources 4 --max-rows 5 --max-tables 6 \
                 --max-rules 7 --max-flows4 8 --max-flows6 9 --max-fragments 10 --event-ring-bytes 8192";
    let Ok(Command::Run(run)) = read(&format!("palisade run --from shop {flags}")) else {
        panic!("run is not read");
    };
    let expected = MapSizes {
        pods: 1,
        addresses: 2,
        networks: 3,
        sources: 4,
        rows: 5,
        tables: 6,
        rules: 7,
        flows4: 8,
        flows6: 9,
        fragments: 10,
        event_ring: 8192,
    };
    assert_eq!(run.kernel.sizes, expected);
}

/// Messages about full maps name the flag to raise.
#[test]
fn each_flag_that_a_map_names_exists() {
    let command = Raw::command();
    let run = command.find_subcommand("run").expect("run exists");
    for map in Map::ALL {
        for flag in map
            .flag()
            .split([' ', ','])
            .filter_map(|word| word.strip_prefix("--"))
        {
            assert!(
                run.get_arguments().any(|a| a.get_long() == Some(flag)),
                "{}: --{flag}",
                map.name()
            );
        }
    }
}

#[test]
fn repeated_ports_are_asked_once_in_order() {
    let Ok(Command::Matrix(matrix)) =
        read("palisade matrix --from shop --port 81/tcp --port ICMP --port 81/TCP")
    else {
        panic!("matrix is not read");
    };
    let shown: Vec<String> = matrix.ports.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["81/TCP", "ICMP"]);
}
