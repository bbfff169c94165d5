//! What the data path does in another way on older kernels. Programs learn their kernel's version before the kernel
//! verifies them, so that it never sees what it does not know.

/// A kernel's version. Its number, the value of the global [`crate::names::KERNEL`]: `major << 16 | minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    /// Since then a `sk_lookup` program may read `ingress_ifindex`. Before, what a steer of one interface wants is steered
    /// whichever interface it comes by, if it goes to an address of the host's own.
    pub const LOOKUP_HAS_INTERFACE: Self = Self::new(5, 17);
    /// Since then a tc program may check a SYN cookie without the listener that made it. Needs CONFIG_SYN_COOKIES.
    pub const COOKIES_HAVE_NO_LISTENER: Self = Self::new(6, 0);
    /// Since then a `cgroup/setsockopt` program may call `bpf_get_current_ancestor_cgroup_id()`.
    pub const SOCKOPT_HAS_ANCESTORS: Self = Self::new(6, 1);
    /// Since then a TCP iterator does not hold the spin lock of a socket (`lock_sock()` instead of `lock_sock_fast()` in
    /// `bpf_iter_tcp_seq_show()`), so that its program may put the socket into a map. Before, that waits for the same
    /// lock for ever. Long-term kernels have it in later releases of 6.1, which their version does not tell.
    pub const ITERATOR_FILLS_SOCKMAPS: Self = Self::new(6, 5);
    /// Since then CAP_NET_RAW lets a process set `SO_MARK`, as CAP_NET_ADMIN always has.
    pub const RAW_SETS_MARKS: Self = Self::new(5, 17);
    /// Since then a `cgroup/connect` program may say by which error the call fails.
    pub const CONNECT_HAS_ERRORS: Self = Self::new(6, 1);
    /// Since then an iterator may set `TCP_BPF_SOCK_OPS_CB_FLAGS`, and so ask for the SYNs that a listener answers
    /// which is older than the agent.
    pub const ITERATOR_ASKS_FOR_SYNS: Self = Self::new(6, 12);

    /// A version by its first two numbers; what follows them brings no features.
    #[inline(always)]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// The version with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether this version has what came with `feature`.
    #[inline(always)]
    pub const fn has(self, feature: Self) -> bool {
        self.0 >= feature.0
    }
}

/// Where a kernel's structures have what says which capabilities a process has: offsets in bytes, from the kernel's BTF.
/// Value of the global [`crate::names::CREDENTIALS`].
///
/// Layout (28 bytes): seven numbers, in the order of the fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `task_struct.cred`.
    pub task_cred: u32,
    /// `task_struct.nsproxy`.
    pub task_nsproxy: u32,
    /// `nsproxy.net_ns`.
    pub nsproxy_net: u32,
    /// `net.user_ns`: the user namespace that owns the network namespace.
    pub net_owner: u32,
    /// `cred.user_ns`.
    pub cred_users: u32,
    /// `cred.cap_effective`.
    pub cred_effective: u32,
    /// `user_namespace.parent`.
    pub users_parent: u32,
}

impl From<Credentials> for [u32; 7] {
    fn from(at: Credentials) -> Self {
        [
            at.task_cred,
            at.task_nsproxy,
            at.nsproxy_net,
            at.net_owner,
            at.cred_users,
            at.cred_effective,
            at.users_parent,
        ]
    }
}

const _: () = assert!(size_of::<Credentials>() == size_of::<[u32; 7]>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_one_by_one() {
        assert!(Version::new(6, 12).has(Version::new(6, 1)));
        assert!(Version::new(7, 0).has(Version::new(6, 12)));
        assert!(!Version::new(5, 15).has(Version::new(5, 17)));
        assert_eq!(
            Version::from_number(Version::new(6, 1).number()),
            Version::new(6, 1)
        );
    }
}
