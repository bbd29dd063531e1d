//! `libmarquee_nccl.so`, the shared object that carries NCCL, loaded where GPUs are.
//!
//! Invariant: it comes after libtorch's CUDA half, whose symbols it needs, and is never unloaded.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{env, mem};

use super::{Group, Handle, Store, check, narrow};
use crate::compat;
use crate::error::TorchError;

/// Name of the file.
pub(crate) const FILE: &str = "libmarquee_nccl.so";
/// Where it lies in an installed tree, seen from the folder of the binary.
const INSTALLED: &str = "../lib/marquee";
/// Says where it is, where that is elsewhere.
pub(crate) const VARIABLE: &str = "MARQUEE_NCCL_SHIM";
/// What `marquee_nccl_interface` of shim/nccl/nccl.cpp must return.
const INTERFACE: c_int = 1;

type MakeBackend = unsafe extern "C" fn(*const c_void, c_int, c_int, i64, *mut c_void) -> c_int;
type Text = unsafe extern "C" fn() -> *const c_char;
type Number = unsafe extern "C" fn() -> c_int;
type Versions = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

unsafe extern "C" {
    fn marquee_group_gpus_by_gloo(group: Handle) -> c_int;
    fn marquee_group_gpus_by_nccl(
        group: Handle,
        store: Handle,
        rank: c_int,
        size: c_int,
        make: MakeBackend,
        text: Text,
    ) -> c_int;
    fn marquee_group_check(group: Handle) -> c_int;
    fn marquee_group_abort(group: Handle) -> c_int;
}

/// NCCL, as loaded.
#[derive(Debug, Clone)]
pub(crate) struct Nccl {
    pub(crate) path: PathBuf,
    /// Such as "2.28.9".
    pub(crate) version: String,
    make: MakeBackend,
    text: Text,
}

impl Nccl {
    /// Loads it; libtorch's CUDA half must have been. The error says what is wrong and the way out.
    pub(crate) fn load() -> Result<Self, String> {
        compat::has_nccl()?;
        let path = find()?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // NOW: a symbol that is missing is to show here, not in the middle of a training.
        // SAFETY: loading runs the object's own initialisers; the handle is kept for ever.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            return Err(format!(
                "{} cannot be loaded: {}",
                path.display(),
                loader_error()
            ));
        }
        let function = |name: &CStr| {
            // SAFETY: the library stays loaded.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            if address.is_null() {
                let name = name.to_string_lossy();
                Err(format!("{} has no {name}; build it anew", path.display()))
            } else {
                Ok(address)
            }
        };
        let interface = function(c"marquee_nccl_interface")?;
        // SAFETY: these are the types of the functions in shim/nccl/nccl.cpp; the first one's never
        // changes, and says whether the others' are these.
        let interface = unsafe { mem::transmute::<*mut c_void, Number>(interface)() };
        if interface != INTERFACE {
            return Err(format!(
                "{} is of another version of the trainer (interface {interface}, not {INTERFACE}); install \
                 the two together",
                path.display()
            ));
        }
        let (make, text) = (
            function(c"marquee_nccl_backend")?,
            function(c"marquee_nccl_last_error")?,
        );
        let versions = function(c"marquee_nccl_versions")?;
        // SAFETY: as above, and the interface is ours.
        let (make, text, versions) = unsafe {
            (
                mem::transmute::<*mut c_void, MakeBackend>(make),
                mem::transmute::<*mut c_void, Text>(text),
                mem::transmute::<*mut c_void, Versions>(versions),
            )
        };
        let version = agreed_version(versions)?;
        Ok(Self {
            path,
            version,
            make,
            text,
        })
    }
}

/// NCCL's version, where the one that the object was compiled for is the one that is there.
fn agreed_version(versions: Versions) -> Result<String, String> {
    let (mut compiled, mut loaded) = (0, 0);
    // SAFETY: both numbers outlive the call.
    let code = unsafe { versions(&raw mut compiled, &raw mut loaded) };
    if code != super::OK {
        return Err("NCCL does not tell its version".to_owned());
    }
    // The last part changes nothing of NCCL's types.
    if compiled / 100 == loaded / 100 {
        return Ok(spelled(loaded));
    }
    Err(format!(
        "{FILE} was built for NCCL {}, but libtorch's is {}; use the GPU runtime that docs/deploy.md lists",
        spelled(compiled),
        spelled(loaded)
    ))
}

/// 22809 is 2.28.9.
fn spelled(version: c_int) -> String {
    format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    )
}

/// The file: where the variable says, beside the binary, or where an installed tree has it.
fn find() -> Result<PathBuf, String> {
    let binary = env::current_exe().map_err(|error| format!("this program's place: {error}"))?;
    let folder = binary.parent().unwrap_or(Path::new("/"));
    find_in(env::var_os(VARIABLE).as_deref(), folder)
}

fn find_in(named: Option<&OsStr>, folder: &Path) -> Result<PathBuf, String> {
    // Whoever names one means that one: no other is taken in its place.
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let path = PathBuf::from(named);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!(
                "{VARIABLE} is {}, which is no file",
                path.display()
            ))
        };
    }
    // Beside the binary first: that is where a build leaves it.
    let places = [folder.join(FILE), folder.join(INSTALLED).join(FILE)];
    places
        .iter()
        .find(|place| place.is_file())
        .cloned()
        .ok_or_else(|| {
            format!(
                "{FILE} is neither in {} nor in {}; \"cargo xtask nccl-shim\" builds it, {VARIABLE} says \
                 where it is",
                folder.display(),
                folder.join(INSTALLED).display()
            )
        })
}

/// What the loader says of its last failure.
fn loader_error() -> String {
    // SAFETY: the text is this thread's, and copied before the next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: it is NUL-terminated.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

impl Group {
    /// Lets Gloo carry tensors on GPUs too, by way of the CPU.
    pub(crate) fn carry_gpus_by_gloo(&self) -> Result<(), TorchError> {
        // SAFETY: the group is live.
        check(unsafe { marquee_group_gpus_by_gloo(self.0) })
    }

    /// Lets NCCL carry tensors on GPUs. It connects in the first exchange of some.
    pub(crate) fn carry_gpus_by_nccl(
        &self,
        nccl: &Nccl,
        store: &Store,
        rank: u32,
        size: u32,
    ) -> Result<(), TorchError> {
        let (rank, size) = (narrow(rank)?, narrow(size)?);
        // SAFETY: group and store are live; the functions are those of a library that stays loaded.
        check(unsafe {
            marquee_group_gpus_by_nccl(self.0, store.0, rank, size, nccl.make, nccl.text)
        })
    }

    /// An error if an exchange between GPUs has failed since the group was formed.
    pub(crate) fn check(&self) -> Result<(), TorchError> {
        // SAFETY: the group is live.
        check(unsafe { marquee_group_check(self.0) })
    }

    /// Ends what GPUs are exchanging, without a result. The group is of no use then.
    pub(crate) fn abort(&self) -> Result<(), TorchError> {
        // SAFETY: the group is live.
        check(unsafe { marquee_group_abort(self.0) })
    }
}

/// Loads libtorch's CUDA half when it is installed beside the CPU one; the error is the loader's.
///
/// The binary is linked against the CPU half alone, so that one binary serves both kinds of host.
/// This must come before the first question about CUDA: libtorch remembers the answer.
pub(crate) fn load_cuda() -> Result<(), String> {
    // SAFETY: loading runs the library's own initialisers; the handle is kept for ever.
    let handle = unsafe {
        libc::dlopen(
            c"libtorch_cuda.so".as_ptr(),
            libc::RTLD_NOW | libc::RTLD_GLOBAL,
        )
    };
    if handle.is_null() {
        Err(loader_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shim_is_found_beside_the_binary_or_where_the_variable_says() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        let missing = find_in(None, &bin).unwrap_err();
        assert!(missing.contains("cargo xtask nccl-shim"), "{missing}");
        let lib = folder.path().join("lib/marquee");
        for place in [&bin, &lib] {
            std::fs::create_dir_all(place).unwrap();
        }
        std::fs::write(lib.join(FILE), "").unwrap();
        assert!(
            find_in(None, &bin)
                .unwrap()
                .ends_with("lib/marquee/libmarquee_nccl.so")
        );
        std::fs::write(bin.join(FILE), "").unwrap();
        assert_eq!(find_in(None, &bin).unwrap(), bin.join(FILE));
        let named = lib.join(FILE);
        assert_eq!(find_in(Some(named.as_os_str()), &bin).unwrap(), named);
        let wrong = find_in(Some(OsStr::new("/nowhere")), &bin).unwrap_err();
        assert!(wrong.contains(VARIABLE), "{wrong}");
    }

    #[test]
    fn versions_are_spelled_as_nccl_does() {
        assert_eq!(spelled(22_809), "2.28.9");
    }
}
