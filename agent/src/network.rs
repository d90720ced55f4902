//! The network device, where the machine has one: one guest and one gateway on a link of their own, the same in every
//! clone, so that nothing is to be done at Wake.

use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{socket, AddressFamily, SocketType};

use crate::log;
use crate::wake::replace_text;

const DEVICE: &str = "eth0";
/// As in `src/terpd/model/network.py`, with the MAC that the host gives its end of every link.
const GUEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const GATEWAY_MAC: [u8; 6] = [0x02, 0xfc, 0, 0, 0, 1];

/// The kernel gives `lo` its addresses when it comes up.
///
/// # Errors
/// What the kernel says.
pub(crate) fn bring_loopback_up() -> Result<(), Errno> {
    bring_up(&control_socket()?, "lo")
}

/// Address, route, the gateway as a neighbour that is never asked for, and it as name server. Without a device there is
/// nothing to do.
///
/// # Errors
/// What the kernel says: a template must not be saved with half a network.
pub(crate) fn configure() -> Result<(), Errno> {
    if !Path::new("/sys/class/net").join(DEVICE).exists() {
        return Ok(());
    }
    // Before it is up, so that it never asks for a router. A kernel without IPv6 has no such file.
    if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1") {
        log::line(&format!("IPv6 on {DEVICE}: {error}"));
    }
    let socket = control_socket()?;
    let mut address = request(DEVICE);
    address.ifr_ifru.ifru_addr = inet(GUEST);
    ioctl(&socket, libc::SIOCSIFADDR, &raw const address)?;
    let mut mask = request(DEVICE);
    mask.ifr_ifru.ifru_netmask = inet(MASK);
    ioctl(&socket, libc::SIOCSIFNETMASK, &raw const mask)?;
    bring_up(&socket, DEVICE)?;
    add_default_route(&socket)?;
    add_neighbour(&socket)?;
    replace_text("/etc/resolv.conf", format!("nameserver {GATEWAY}\n").as_bytes())
}

fn add_default_route(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid rtentry: every address of it is 0.0.0.0 then.
    let mut route: libc::rtentry = unsafe { zeroed() };
    route.rt_dst = inet(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = inet(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = inet(GATEWAY);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    ioctl(socket, libc::SIOCADDRT, &raw const route)
}

/// A clone would otherwise ask for the gateway's MAC with its first packet.
fn add_neighbour(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: all zeros is a valid arpreq.
    let mut entry: libc::arpreq = unsafe { zeroed() };
    entry.arp_pa = inet(GATEWAY);
    entry.arp_ha.sa_family = libc::ARPHRD_ETHER;
    for (target, source) in entry.arp_ha.sa_data.iter_mut().zip(GATEWAY_MAC) {
        *target = source.cast_signed();
    }
    entry.arp_flags = libc::ATF_COM | libc::ATF_PERM;
    set_name(&mut entry.arp_dev, DEVICE);
    ioctl(socket, libc::SIOCSARP, &raw const entry)
}

fn bring_up(socket: &OwnedFd, device: &str) -> Result<(), Errno> {
    let mut flags = request(device);
    flags.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    ioctl(socket, libc::SIOCSIFFLAGS, &raw const flags)
}

fn control_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::INET, SocketType::DGRAM, None)
}

fn request(device: &str) -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    set_name(&mut request.ifr_name, device);
    request
}

fn set_name(field: &mut [libc::c_char], device: &str) {
    for (target, source) in field.iter_mut().zip(device.bytes()) {
        *target = source.cast_signed();
    }
}

/// A `sockaddr_in` in the shape that ioctl structures have room for.
fn inet(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all zeros is a valid sockaddr.
    let mut general: libc::sockaddr = unsafe { zeroed() };
    general.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    // Behind the port's two bytes (ip(7), sin_addr).
    for (target, source) in general.sa_data.iter_mut().skip(2).zip(address.octets()) {
        *target = source.cast_signed();
    }
    general
}

fn ioctl<T>(socket: &OwnedFd, number: impl Into<u64>, argument: *const T) -> Result<(), Errno> {
    // SAFETY: each caller pairs the number with the structure that the kernel reads for it, and nothing is written.
    match unsafe { libc::ioctl(socket.as_raw_fd(), number.into() as libc::Ioctl, argument) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address lies where `sockaddr_in` has it.
    #[test]
    fn addresses_have_the_layout_of_sockaddr_in() {
        let general = inet(GATEWAY);
        // SAFETY: both structures have 16 bytes, and any bytes are a valid sockaddr_in.
        let special: libc::sockaddr_in = unsafe { std::mem::transmute(general) };
        assert_eq!(i32::from(special.sin_family), libc::AF_INET);
        assert_eq!(special.sin_port, 0);
        assert_eq!(Ipv4Addr::from(u32::from_be(special.sin_addr.s_addr)), GATEWAY);
    }
}
