//! What the programs are measured against: an empty program, and one that does a single LRU lookup that hits, by a key of the
//! same size in a map of the same size with as many entries.

use std::error::Error;
use std::time::Instant;

use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder, ProgramInput, ProgramMut};

/// Flows in each conntrack map, ours and the reference's, besides those that are measured.
const OTHER_FLOWS: u32 = 100_000;

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bench.bpf.o"));

pub struct Reference(Object);

impl Reference {
    pub fn load() -> Result<Self, Box<dyn Error>> {
        let object = ObjectBuilder::default().open_memory(OBJECT)?.load()?;
        for map in object
            .maps()
            .filter(|map| map.name().to_string_lossy().starts_with("flows"))
        {
            fill(&map)?;
            // Last, so that it is first in its bucket, as the flows that are measured are in theirs.
            let mut key = vec![0; map.key_size() as usize];
            key[0] = 1;
            map.update(&key, &vec![0; map.value_size() as usize], MapFlags::ANY)?;
        }
        Ok(Self(object))
    }

    /// Mean of `repeat` runs in ns, with the measurement's own costs.
    pub fn run(&mut self, program: &str, frame: &[u8], repeat: u32) -> Result<f64, Box<dyn Error>> {
        let program = self.program(program)?;
        let input = ProgramInput {
            data_in: Some(frame),
            repeat,
            ..ProgramInput::default()
        };
        let start = Instant::now();
        let output = program.test_run(input)?;
        let took = start.elapsed();
        assert_eq!(output.return_value.cast_signed(), -1, "the lookup misses");
        Ok(super::measure::mean(took, output.duration, repeat))
    }

    fn program(&mut self, name: &str) -> Result<ProgramMut<'_>, Box<dyn Error>> {
        let program = self.0.progs_mut().find(|program| program.name() == name);
        program.ok_or_else(|| format!("no program {name}").into())
    }
}

/// Fills a conntrack map with flows of other interfaces.
pub fn fill(map: &impl MapCore) -> Result<(), Box<dyn Error>> {
    const BATCH: u32 = 10_000;
    let value = vec![0; map.value_size() as usize * BATCH as usize];
    for batch in 0..OTHER_FLOWS / BATCH {
        let keys: Vec<u8> = (0..BATCH)
            .flat_map(|number| {
                let mut key = vec![0; map.key_size() as usize];
                key[..4].copy_from_slice(&(1_000_000 + batch * BATCH + number).to_ne_bytes());
                key
            })
            .collect();
        map.update_batch(&keys, &value, BATCH, MapFlags::ANY, MapFlags::ANY)?;
    }
    Ok(())
}
