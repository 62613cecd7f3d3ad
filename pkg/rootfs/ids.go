package rootfs

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDMap maps the container's ids from 0 on to a range of host ids.
type IDMap struct {
	HostID uint32 `json:"host_id"`
	Count  uint32 `json:"count"`
}

// host is the host's id of one of the container's.
func (m *IDMap) host(id uint32) (int, error) {
	if m == nil {
		return int(id), nil
	}
	if id >= m.Count {
		return 0, fmt.Errorf("id %d is outside the container's %d ids", id, m.Count)
	}
	return int(m.HostID + id), nil
}

// namespace opens a user namespace with the mapping.
func (m IDMap) namespace() (ns *os.File, err error) {
	err = m.process(0, func(pid int) error {
		ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		return err
	})
	return ns, err
}

// process runs a function beside a process in a user namespace with the mapping, and in
// others by the flags. Only a process can make one: it is this program once more, which the
// kernel stops before its first instruction.
func (m IDMap) process(flags uintptr, do func(pid int) error) error {
	if m.Count == 0 || uint64(m.HostID)+uint64(m.Count) > 1<<32-1 {
		return fmt.Errorf("%d host ids from %d on are no range of ids", m.Count, m.HostID)
	}
	// The kernel ends or releases the process when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ids := []syscall.SysProcIDMap{{HostID: int(m.HostID), Size: int(m.Count)}}
	p, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | flags, UidMappings: ids, GidMappings: ids, Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("cannot make a user namespace (see user.max_user_namespaces, or boot with --privileged): %w", err)
	}
	defer p.Wait()
	defer p.Kill()
	return do(p.Pid)
}

// as runs a function with the filesystem ids of the container's root. Through an
// idmapped mount the host's root has no id, and could make nothing (EOVERFLOW).
func as(ids *IDMap, f func() error) error {
	if ids == nil {
		return f()
	}
	done := make(chan error)
	go func() {
		// Never unlocked: the ids are the thread's, which ends with the goroutine.
		runtime.LockOSThread()
		done <- func() error {
			if err := setFSIDs(int(ids.HostID)); err != nil {
				return fmt.Errorf("cannot take the ids of the container's root: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

// setFSIDs sets the thread's filesystem ids. The kernel takes the capabilities over
// files away with them; they are raised again, for a directory may belong to any of
// the container's users.
func setFSIDs(id int) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return err
	}
	if err := unix.Setfsgid(id); err != nil {
		return err
	}
	if err := unix.Setfsuid(id); err != nil {
		return err
	}
	return unix.Capset(&hdr, &caps[0])
}
