//! Devices that policy names: from paths to the numbers by which the kernel half knows them.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use aya::Ebpf;
use gateway_common::agent::{DEVICE_BLOCK, DEVICE_CHARACTER, Device};
use nix::sys::stat::{major, minor};

use super::{BoundaryError, abi::Wire, boundary::map_error};

/// Why a device that policy names cannot be allowed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nothing is there, or nobody can say what.
    #[error("device {path} of [process] `devices`; delete it, or load its driver first")]
    Look {
        /// As policy names it.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something else is there.
    #[error("{0} in [process] `devices` is no device; a link is not followed")]
    Kind(String),
    /// A number that the kernel half has no room for.
    #[error("device {0} of [process] `devices` has numbers beyond 32 bits")]
    Numbers(String),
}

/// The numbers of these devices, as they are now.
pub(super) fn resolve(paths: &[String]) -> Result<Vec<Device>, DeviceError> {
    paths.iter().map(|path| device(path)).collect()
}

fn device(path: &str) -> Result<Device, DeviceError> {
    let metadata = fs::symlink_metadata(path).map_err(|source| DeviceError::Look {
        path: path.to_owned(),
        source,
    })?;
    let kind = if metadata.file_type().is_char_device() {
        DEVICE_CHARACTER
    } else if metadata.file_type().is_block_device() {
        DEVICE_BLOCK
    } else {
        return Err(DeviceError::Kind(path.to_owned()));
    };
    let number =
        |number: u64| u32::try_from(number).map_err(|_| DeviceError::Numbers(path.to_owned()));
    Ok(Device {
        kind,
        major: number(major(metadata.rdev()))?,
        minor: number(minor(metadata.rdev()))?,
    })
}

/// Fills the map of devices, before any program is attached.
pub(super) fn fill(ebpf: &mut Ebpf, devices: &[Device]) -> Result<(), BoundaryError> {
    const MAP: &str = "DEVICES";
    let map = ebpf.map_mut(MAP).ok_or(BoundaryError::Missing(MAP))?;
    let mut map =
        aya::maps::HashMap::<_, Wire<Device>, u32>::try_from(map).map_err(map_error(MAP))?;
    devices
        .iter()
        .try_for_each(|device| map.insert(Wire(*device), 1, 0))
        .map_err(map_error(MAP))
}

/// How a device is told in a record: kind and numbers, as `ls -l` has them.
pub(super) fn told(device: &Device) -> String {
    let kind = if device.kind == DEVICE_BLOCK {
        'b'
    } else {
        'c'
    };
    format!("{kind} {}:{}", device.major, device.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_everything_else() {
        let null = device("/dev/null").expect("a device");
        assert_eq!(told(&null), "c 1:3");
        assert!(matches!(device("/etc/passwd"), Err(DeviceError::Kind(_))));
        assert!(matches!(device("/dev/stdin"), Err(DeviceError::Kind(_))));
        let missing = device("/dev/no-such-device");
        assert!(matches!(missing, Err(DeviceError::Look { .. })));
    }

    #[test]
    fn a_device_in_place_of_an_address_is_read_back() {
        let null = device("/dev/null").expect("a device");
        assert_eq!(Device::from_endpoint(&null.as_endpoint()), Some(null));
    }
}
