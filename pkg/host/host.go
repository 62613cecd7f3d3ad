// Package host knows the machine that lxcboot runs on: which one it is, and since when
// it has been up.
package host

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Host is a machine, by what stays.
type Host struct {
	ID     string `json:"id"`                // the setting host-id, else the machine id
	Name   string `json:"name"`              // the setting host, else the host name: for people
	BootID string `json:"boot_id,omitempty"` // the kernel's, anew with each start of the machine
}

// Machine is the hardware's name, as uname -m has it.
func Machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // never fails
	return unix.ByteSliceToString(u.Machine[:])
}

// validID is what a host id may be: it becomes part of Cinder's metadata.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Here is this machine. id and name are settings; where they are empty, the machine id
// (machine-id(5)) and the host name stand for them. Without a machine id the host name
// is the id.
func Here(id, name string) (Host, error) {
	boot, err := BootID()
	if err != nil {
		return Host{}, err
	}
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return Host{}, fmt.Errorf("asking for this host's name: %w", err)
		}
	}
	if id == "" {
		id = MachineID()
	}
	if id == "" {
		id = name
	}
	if !validID.MatchString(id) {
		return Host{}, failure.Invalid("the host id %q is not of 1 to 64 letters, digits, '.', '_' and '-'", id)
	}
	return Host{ID: id, Name: name, BootID: boot}, nil
}

// MachineID is the content of /etc/machine-id; empty where there is none.
func MachineID() string {
	data, err := os.ReadFile("/etc/machine-id")
	if id := strings.TrimSpace(string(data)); err == nil && id != "uninitialized" {
		return id
	}
	return ""
}

// BootID tells one start of this machine from the next.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("asking when this host was started: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
