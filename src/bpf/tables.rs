//! The open maps, by name and by type.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;

use anyhow::{Context, Result, bail};

use super::config::Map;
use super::open_map::OpenMap;
use super::plain::Plain;
use super::sys::MapShape;

/// Elements read at a time. A hash bucket must fit, and buckets are short.
const BATCH: u32 = 4096;

/// Every map of `bpf/maps.h`, open.
#[derive(Debug)]
pub(super) struct Maps(BTreeMap<Map, OpenMap>);

impl Maps {
    /// # Errors
    /// One is missing.
    pub fn new(maps: BTreeMap<Map, OpenMap>) -> Result<Self> {
        match Map::ALL.iter().find(|map| !maps.contains_key(map)) {
            Some(map) => bail!("map {} is not there", map.name()),
            None => Ok(Self(maps)),
        }
    }

    pub fn into_inner(self) -> BTreeMap<Map, OpenMap> {
        self.0
    }

    /// `max_entries`.
    pub fn capacity(&self, map: Map) -> u32 {
        self.0[&map].shape().max_entries
    }

    pub fn get(&self, map: Map) -> &OpenMap {
        &self.0[&map]
    }

    pub fn shape(&self, map: Map) -> MapShape {
        self.0[&map].shape()
    }

    /// # Panics
    /// If the map's sizes are not those of `K` and `V`: abi.h and maps.h disagree.
    pub fn table<K: Plain, V: Plain>(&self, map: Map) -> Table<'_, K, V> {
        Table::new(map, self.get(map)).unwrap_or_else(|| panic!("map {} is not of this type", map.name()))
    }
}

/// One map with its key and value types.
pub(super) struct Table<'a, K, V> {
    map: Map,
    open: &'a OpenMap,
    types: PhantomData<(K, V)>,
}

impl<'a, K: Plain, V: Plain> Table<'a, K, V> {
    /// `None` where the map's sizes are others.
    pub fn new(map: Map, open: &'a OpenMap) -> Option<Self> {
        let shape = open.shape();
        let fits = shape.key_size as usize == size_of::<K>() && shape.value_size as usize == size_of::<V>();
        fits.then_some(Self {
            map,
            open,
            types: PhantomData,
        })
    }

    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let mut value = V::default();
        let mut bytes = value.bytes().to_vec();
        let found = self
            .open
            .get(key.bytes(), &mut bytes)
            .with_context(|| format!("cannot read map {}", self.map.name()))?;
        if found {
            value = V::read(&bytes).unwrap_or_default();
        }
        Ok(found.then_some(value))
    }

    /// Everything, in no order. A map that others write meanwhile may show an entry twice or not at all.
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        self.read(|found: &mut Vec<(K, V)>, key, value| found.extend(K::read(key).zip(V::read(value))))
    }

    /// How many there are.
    pub fn count(&self) -> Result<u64> {
        self.read(|count, _, _| *count += 1)
    }

    fn read<T: Default>(&self, take: impl Fn(&mut T, &[u8], &[u8]) + Copy) -> Result<T> {
        self.in_batches(take)
            .or_else(|error| match error.raw_os_error() {
                // 5.10 has no batches for prefix maps: ENOTSUPP, which has no name in user space.
                Some(524) => self.one_by_one(take),
                _ => match error.kind() {
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => self.one_by_one(take),
                    _ => Err(error),
                },
            })
            .with_context(|| format!("cannot read map {}", self.map.name()))
    }

    fn in_batches<T: Default>(&self, take: impl Fn(&mut T, &[u8], &[u8])) -> io::Result<T> {
        let mut count = BATCH.min(self.open.shape().max_entries.max(64));
        let (key_size, value_size) = (size_of::<K>(), size_of::<V>());
        let mut position = None;
        let mut found = T::default();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        loop {
            keys.resize(key_size * count as usize, 0);
            values.resize(value_size * count as usize, 0);
            let before = position.clone();
            let read = self.open.get_batch(&mut position, &mut keys, &mut values);
            let (read, last) = match read {
                Ok(read) => read,
                // A bucket that is longer than the batch.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && count < 1 << 20 => {
                    position = before;
                    count *= 4;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let pairs = keys.chunks_exact(key_size).zip(values.chunks_exact(value_size));
            pairs
                .take(read)
                .for_each(|(key, value)| take(&mut found, key, value));
            if last {
                return Ok(found);
            }
        }
    }

    fn one_by_one<T: Default>(&self, take: impl Fn(&mut T, &[u8], &[u8])) -> io::Result<T> {
        let mut found = T::default();
        let mut key = vec![0; size_of::<K>()];
        let mut more = self.open.next_key(None, &mut key)?;
        while more {
            let mut value = vec![0; size_of::<V>()];
            if self.open.get(&key, &mut value)? {
                take(&mut found, &key, &value);
            }
            let previous = key.clone();
            more = self.open.next_key(Some(&previous), &mut key)?;
        }
        Ok(found)
    }
}
