//! The bpf(2) calls that libbpf-rs does not offer by file descriptor, each with its errno as an `io::Error`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use libbpf_rs::libbpf_sys as raw;

pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        // libbpf's low-level calls return -errno.
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}

fn owned(result: i32) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: a non-negative result is a descriptor that the kernel just made for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`: a map, a program or a link.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    owned(unsafe { raw::bpf_obj_get(path.as_ptr()) })
}

/// Pins at `path`; fails if it exists.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: an open descriptor and a NUL-terminated string that outlive the call.
    check(unsafe { raw::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) }).map(drop)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    pub id: u32,
    pub name: [u8; 16],
}

impl ProgramInfo {
    pub fn is_named(&self, name: &str) -> bool {
        self.name.split(|b| *b == 0).next() == Some(name.as_bytes())
    }
}

pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = raw::bpf_prog_info::default();
    let mut length = size_of_val(&info) as u32;
    // SAFETY: info is zeroed, so it asks for no variable-length parts, and length is its size.
    check(unsafe { raw::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length) })?;
    Ok(ProgramInfo {
        id: info.id,
        name: info.name.map(|c| c as u8),
    })
}

/// What people ask of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramDetails {
    pub id: u32,
    pub tag: [u8; 8],
    /// After the machine's start.
    pub loaded: Duration,
    pub verified_instructions: u32,
    pub translated_bytes: u32,
    pub jited_bytes: u32,
    pub runs: u64,
    pub run_time: Duration,
}

pub(super) fn program_details(program: BorrowedFd<'_>) -> io::Result<ProgramDetails> {
    let mut info = raw::bpf_prog_info::default();
    let mut length = size_of_val(&info) as u32;
    // SAFETY: info is zeroed, so it asks for no variable-length parts, and length is its size.
    check(unsafe { raw::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length) })?;
    Ok(ProgramDetails {
        id: info.id,
        tag: info.tag,
        loaded: Duration::from_nanos(info.load_time),
        verified_instructions: info.verified_insns,
        translated_bytes: info.xlated_prog_len,
        jited_bytes: info.jited_prog_len,
        runs: info.run_cnt,
        run_time: Duration::from_nanos(info.run_time_ns),
    })
}

/// Opens a loaded program by its id.
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes a number.
    owned(unsafe { raw::bpf_prog_get_fd_by_id(id) })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapShape {
    pub id: u32,
    pub kind: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub flags: u32,
    pub max_entries: u32,
}

pub(super) fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut info = raw::bpf_map_info::default();
    let mut length = size_of_val(&info) as u32;
    // SAFETY: info is valid for writes of length bytes.
    check(unsafe { raw::bpf_map_get_info_by_fd(map.as_raw_fd(), &mut info, &mut length) })?;
    Ok(MapShape {
        id: info.id,
        kind: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        flags: info.map_flags,
        max_entries: info.max_entries,
    })
}

/// Which side of an interface, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    fn tcx(self) -> raw::bpf_attach_type {
        match self {
            Self::Ingress => raw::BPF_TCX_INGRESS,
            Self::Egress => raw::BPF_TCX_EGRESS,
        }
    }
}

/// A tcx link ahead of what is attached there already, so that nobody's accept comes before our verdict.
pub(super) fn tcx_attach(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    let options = raw::bpf_link_create_opts {
        sz: size_of::<raw::bpf_link_create_opts>() as _,
        flags: raw::BPF_F_BEFORE,
        ..Default::default()
    };
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: options is sized by sz and outlives the call; its union is zero, which is no relative program.
    owned(unsafe { raw::bpf_link_create(program.as_raw_fd(), ifindex, hook.tcx(), &options) })
}

/// To what is attached after it.
const TCX_NEXT: i32 = -1;

/// A program for tcx that lets everything pass on to what is attached after it.
pub(super) fn passing_program() -> io::Result<OwnedFd> {
    let instruction = |code: u32, imm| raw::bpf_insn {
        code: code as u8,
        imm,
        ..Default::default()
    };
    let instructions = [
        instruction(raw::BPF_ALU64 | raw::BPF_MOV | raw::BPF_K, TCX_NEXT),
        instruction(raw::BPF_JMP | raw::BPF_EXIT, 0),
    ];
    // SAFETY: NUL-terminated strings and instructions that outlive the call; null options are the defaults.
    owned(unsafe {
        raw::bpf_prog_load(
            raw::BPF_PROG_TYPE_SCHED_CLS,
            c"placeholder".as_ptr(),
            c"Dual BSD/GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            std::ptr::null_mut(),
        )
    })
}

/// Swaps a link's program in place; no packet goes unjudged meanwhile.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two open descriptors; null options are the defaults.
    check(unsafe { raw::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) }).map(drop)
}

/// Detaches at once, whoever else holds the link.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an open descriptor.
    check(unsafe { raw::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcxInfo {
    pub program: u32,
    /// 0: the interface is gone, or the link was detached.
    pub ifindex: u32,
    pub hook: Option<Hook>,
}

/// `None` for links of another type.
pub(super) fn tcx_info(link: BorrowedFd<'_>) -> io::Result<Option<TcxInfo>> {
    let mut info = raw::bpf_link_info::default();
    let mut length = size_of_val(&info) as u32;
    // SAFETY: info is zeroed, so it asks for no variable-length parts, and length is its size.
    check(unsafe { raw::bpf_link_get_info_by_fd(link.as_raw_fd(), &mut info, &mut length) })?;
    if info.type_ != raw::BPF_LINK_TYPE_TCX {
        return Ok(None);
    }
    // SAFETY: the type says which member of the union the kernel filled; all are plain integers.
    let tcx = unsafe { info.__bindgen_anon_1.tcx };
    Ok(Some(TcxInfo {
        program: info.prog_id,
        ifindex: tcx.ifindex,
        hook: [Hook::Ingress, Hook::Egress]
            .into_iter()
            .find(|h| h.tcx() == tcx.attach_type),
    }))
}

/// Where a clsact filter of ours stands in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilterPlace {
    pub priority: u32,
    pub handle: u32,
}

fn tc_hook(ifindex: u32, point: raw::bpf_tc_attach_point) -> raw::bpf_tc_hook {
    raw::bpf_tc_hook {
        sz: size_of::<raw::bpf_tc_hook>() as _,
        ifindex: ifindex.cast_signed(),
        attach_point: point,
        ..Default::default()
    }
}

fn tc_filter(place: FilterPlace) -> raw::bpf_tc_opts {
    raw::bpf_tc_opts {
        sz: size_of::<raw::bpf_tc_opts>() as _,
        handle: place.handle,
        priority: place.priority,
        ..Default::default()
    }
}

impl Hook {
    fn tc(self) -> raw::bpf_tc_attach_point {
        match self {
            Self::Ingress => raw::BPF_TC_INGRESS,
            Self::Egress => raw::BPF_TC_EGRESS,
        }
    }
}

/// Adds a clsact qdisc to an interface that has none.
pub(super) fn clsact_create(ifindex: u32) -> io::Result<()> {
    let mut hook = tc_hook(ifindex, raw::BPF_TC_INGRESS | raw::BPF_TC_EGRESS);
    // SAFETY: hook is sized by sz and outlives the call.
    match check(unsafe { raw::bpf_tc_hook_create(&mut hook) }) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Adds a filter, or replaces in place the one that is there.
pub(super) fn filter_attach(
    ifindex: u32,
    hook: Hook,
    place: FilterPlace,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let hook = tc_hook(ifindex, hook.tc());
    let mut filter = tc_filter(place);
    filter.prog_fd = program.as_raw_fd();
    filter.flags = raw::BPF_TC_F_REPLACE;
    // SAFETY: both are sized by sz and outlive the call; the descriptor is open.
    check(unsafe { raw::bpf_tc_attach(&hook, &mut filter) }).map(drop)
}

/// Id of the program of a filter.
pub(super) fn filter_program(ifindex: u32, hook: Hook, place: FilterPlace) -> io::Result<u32> {
    let hook = tc_hook(ifindex, hook.tc());
    let mut filter = tc_filter(place);
    // SAFETY: both are sized by sz and outlive the call.
    check(unsafe { raw::bpf_tc_query(&hook, &mut filter) })?;
    Ok(filter.prog_id)
}

pub(super) fn filter_detach(ifindex: u32, hook: Hook, place: FilterPlace) -> io::Result<()> {
    let hook = tc_hook(ifindex, hook.tc());
    // SAFETY: both are sized by sz and outlive the call.
    check(unsafe { raw::bpf_tc_detach(&hook, &tc_filter(place)) }).map(drop)
}

/// What one run of a program over one frame gave.
pub(super) struct TestRun {
    pub action: i32,
    /// Mean of the repetitions, ns.
    pub nanoseconds: u32,
}

/// BPF_PROG_TEST_RUN of a tc program; `context` is a `struct __sk_buff`.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: &[u8],
    repeat: u32,
) -> io::Result<TestRun> {
    let mut options = raw::bpf_test_run_opts {
        sz: size_of::<raw::bpf_test_run_opts>() as _,
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        ctx_in: context.as_ptr().cast(),
        ctx_size_in: u32::try_from(context.len()).map_err(io::Error::other)?,
        repeat: i32::try_from(repeat).map_err(io::Error::other)?,
        ..Default::default()
    };
    // SAFETY: both inputs outlive the call and are as long as said; there are no output buffers.
    check(unsafe { raw::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) })?;
    Ok(TestRun {
        action: options.retval.cast_signed(),
        nanoseconds: options.duration,
    })
}
