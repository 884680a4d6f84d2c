//! The few calls to the system that this takes, and what stands for them where there is no `splice(2)`.

#[cfg(target_os = "linux")]
pub(super) use linux::{low_water, pipe, queued, splice, unread};
#[cfg(not(target_os = "linux"))]
pub(super) use none::{low_water, pipe, queued, splice, unread};

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io,
        os::fd::{AsFd, OwnedFd},
    };

    use nix::{libc, sys::socket::SetSockOpt};
    use rustix::pipe::{PipeFlags, SpliceFlags};

    #[derive(Debug, Clone, Copy)]
    struct LowWater;
    nix::setsockopt_impl!(
        LowWater,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        usize,
        nix::sys::socket::sockopt::SetUsize
    );

    /// A pipe, reading end first, that holds `size` bytes.
    pub(in super::super) fn pipe(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        rustix::pipe::fcntl_setpipe_size(&write, size)?;
        Ok((read, write))
    }

    /// Moves bytes without waiting; 0 is the end.
    pub(in super::super) fn splice(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = rustix::io::retry_on_intr(|| rustix::pipe::splice(&from, None, &to, None, most, flags))?;
        Ok(moved)
    }

    /// Bytes that a socket has and nobody has read.
    pub(in super::super) fn unread(socket: impl AsFd) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(socket)?)
    }

    /// Bytes that were sent over a socket and are not acknowledged.
    #[expect(unsafe_code, reason = "no crate here has a safe wrapper of this call")]
    pub(in super::super) fn queued(socket: impl AsFd) -> io::Result<u64> {
        use rustix::ioctl::{Getter, Opcode, ioctl};
        const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;
        // SAFETY: of a socket it writes one `int` (tcp(7)), and nothing else.
        let queued = unsafe { ioctl(socket, Getter::<SIOCOUTQ, libc::c_int>::new()) }?;
        Ok(u64::try_from(queued).unwrap_or(0))
    }

    /// The system speaks up of a socket when it has so many bytes, or is closed. If it has them, it does so now.
    pub(in super::super) fn low_water(socket: impl AsFd, bytes: u64) -> io::Result<()> {
        LowWater.set(&socket, &usize::try_from(bytes).unwrap_or(usize::MAX))?;
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod none {
    use std::{
        io,
        os::fd::{AsFd, OwnedFd},
    };

    pub(in super::super) fn pipe(_: usize) -> io::Result<(OwnedFd, OwnedFd)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn splice(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn unread(_: impl AsFd) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn queued(_: impl AsFd) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn low_water(_: impl AsFd, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
