package lxc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// The kinds of failure that callers tell apart with errors.Is.
var (
	ErrNotFound   = errors.New("libvirt knows no such container")
	ErrExists     = errors.New("already exists in libvirt")
	ErrNotRunning = errors.New("container is not running")
	ErrNoDaemon   = errors.New("libvirtd does not answer: start it with 'systemctl start libvirtd', or with 'libvirtd -d' where there is no systemd")
	ErrNoDriver   = errors.New("libvirt has no LXC driver here: install the package libvirt-daemon-driver-lxc and restart libvirtd")
	// ErrUnheard says that the container's init pays no heed to the signal that
	// would have ended or restarted it: only Destroy ends it.
	ErrUnheard = errors.New("the container's init does not react to such a request")
	// ErrInitUnknown says that libvirt does not know the container's init, and so cannot
	// change its devices until it is started anew.
	ErrInitUnknown = errors.New("libvirt does not know the container's init")
)

// StartError says why a container did not start.
type StartError struct {
	ID     string
	Reason string // one readable sentence
	Detail string // libvirt's own words
}

func (e *StartError) Error() string {
	return fmt.Sprintf("container %s did not start: %s", e.ID, e.Reason)
}

// reasons are the causes of a failed start that have better words than libvirt's:
// the first whose parts all occur in libvirt's text.
var reasons = []struct {
	parts  []string
	reason string
}{
	{[]string{"/sys/fs/cgroup/unified"}, "libvirt cannot work with the cgroup v2 hierarchy at /sys/fs/cgroup/unified beside cgroup v1: run libvirtd in a mount namespace from which it was unmounted, or boot the host with cgroup v2 alone"},
	{[]string{"Unable to create directory", "/cgroup"}, "libvirt cannot set up the container's cgroups"},
	{[]string{"Failed to create", "/.oldroot: Permission denied"}, "its user namespace cannot reach the root filesystem: each directory above it must be searchable (x) for the container's root"},
	{[]string{"cannot find init path"}, "its init is not in the root filesystem"},
	{[]string{"Cannot find init path"}, "its init is not in the root filesystem"},
	{[]string{"add bridge", "No such device"}, "a bridge that it should join is not there"},
	{[]string{"Cannot get interface MTU"}, "a bridge that it should join is not there"},
	{[]string{"network", "is not active"}, "a libvirt network that it should join is not active: start it with 'virsh net-start'"},
	{[]string{"Network not found"}, "a libvirt network that it should join is not there"},
	{[]string{"unable to set user namespace"}, "the host gives it no user namespace: see /proc/sys/user/max_user_namespaces"},
	{[]string{"Kernel doesn't support user namespace"}, "the host's kernel has no user namespaces"},
	{[]string{"failed to apply capabilities"}, "libvirtd itself lacks a capability that the container should have"},
	{[]string{"memory.memsw"}, "the host's kernel does not account swap: leave the swap limit out, or boot the host with swapaccount=1"},
}

// startError makes a StartError of what libvirt said. libvirt's text repeats the
// log of the container's controller, of which the last line holds the cause.
func startError(id, text string) *StartError {
	e := &StartError{ID: id, Detail: text, Reason: cause(text)}
	if e.Reason == "" {
		e.Reason = "libvirt does not say why: its own log of the container may, or a second try"
	}
	for _, r := range reasons {
		all := true
		for _, p := range r.parts {
			all = all && strings.Contains(text, p)
		}
		if all {
			e.found(r.reason)
			break
		}
	}
	return e
}

// found puts what was seen to be wrong before what libvirt said.
func (e *StartError) found(why string) {
	if why == "" {
		return
	}
	if last := cause(e.Detail); last != "" {
		why += " (" + last + ")"
	}
	e.Reason = why
}

// prefixes say nothing to a reader of the sentence that follows them.
var prefixes = []string{
	"internal error: ", "Timed out while reading log output: ", "guest failed to start: ", "Failure in libvirt_lxc startup: ", "operation failed: ",
	"unsupported configuration: ", "Hook script execution failed: ",
}

// cause is the telling part of libvirt's text: its last line that is not empty,
// without the log's prefixes. It is as untrusted as the container's root.
func cause(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	last := ""
	for _, l := range lines {
		if l = strings.TrimSpace(l); l != "" {
			last = l
		}
	}
	// A line of the log is "2025-01-02 03:04:05.678+0000: 123: error : function:45 : words".
	if _, words, ok := strings.Cut(last, ": error : "); ok {
		if _, after, ok := strings.Cut(words, " : "); ok {
			words = after
		}
		last = words
	}
	for again := true; again; {
		again = false
		for _, p := range prefixes {
			if s, ok := strings.CutPrefix(last, p); ok {
				last, again = s, true
			} else if last == strings.TrimSpace(p) { // nothing follows it
				last = ""
			}
		}
	}
	return tty.Line(last)
}

// translate makes a libvirt error one of ours. what is the thing that was meant.
func translate(err error, what string) error {
	var lv libvirt.Error
	if err == nil || !errors.As(err, &lv) {
		return err
	}
	switch lv.Code {
	case libvirt.ERR_NO_DOMAIN:
		return fmt.Errorf("container %s: %w", what, ErrNotFound)
	case libvirt.ERR_AUTH_FAILED, libvirt.ERR_AUTH_CANCELLED, libvirt.ERR_AUTH_UNAVAILABLE, libvirt.ERR_ACCESS_DENIED:
		return fmt.Errorf("libvirt refuses this user: run as root (%s)", cause(lv.Message))
	}
	if disconnected(err) {
		return fmt.Errorf("%w (%s)", ErrNoDaemon, cause(lv.Message))
	}
	return fmt.Errorf("container %s: libvirt: %s", what, cause(lv.Message))
}

// disconnected says whether an error is of the way to libvirtd.
func disconnected(err error) bool {
	var lv libvirt.Error
	if !errors.As(err, &lv) {
		return false
	}
	switch {
	case lv.Code == libvirt.ERR_INVALID_CONN, lv.Code == libvirt.ERR_RPC:
		return true
	case lv.Domain == libvirt.FROM_RPC || lv.Domain == libvirt.FROM_REMOTE:
		// The socket is not there, was refused, or was closed in between.
		return lv.Code == libvirt.ERR_SYSTEM_ERROR || lv.Code == libvirt.ERR_INTERNAL_ERROR
	}
	return false
}

// timeout says of a call to libvirt that was given up why that was.
func timeout(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errNoAnswer) {
		return fmt.Errorf("%w (%v)", ErrNoDaemon, cause)
	}
	return cause
}
