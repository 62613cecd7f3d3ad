package connector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
)

// nvmeDriver connects NVMe over fabrics by the nvme tool, and finds the namespace
// by its identity in sysfs.
type nvmeDriver struct{ h *Host }

type nvmeState struct {
	Attachment string       `json:"attachment,omitempty"` // empty: of a version that did not count
	NQN        string       `json:"nqn"`
	Portals    []nvmePortal `json:"portals"`
	// One of these says which namespace of the subsystem the volume is.
	UUID  string `json:"uuid,omitempty"`
	NGUID string `json:"nguid,omitempty"`
	NSID  int    `json:"nsid,omitempty"`
}

type nvmePortal struct {
	Address   string `json:"address"`
	Port      string `json:"port"`
	Transport string `json:"transport"` // tcp or rdma
}

var nqnName = regexp.MustCompile(`^nqn\.[A-Za-z0-9.:_-]+$`)

// prepare reads both forms that os-brick's NVMeOFConnector knows: target_nqn with
// portals and vol_uuid, and the older nqn with target_portal and ns_id.
func (n nvmeDriver) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	i := info(req.Connection.Data)
	st := nvmeState{Attachment: req.AttachmentID, NQN: i.str("target_nqn"), UUID: strings.ToLower(i.str("vol_uuid")), NGUID: i.str("volume_nguid")}
	if st.NQN == "" {
		st.NQN = i.str("nqn")
	}
	if !nqnName.MatchString(st.NQN) {
		return Device{}, failure.Invalid("%q is no NVMe qualified name", st.NQN)
	}
	for _, p := range i.list("portals") {
		if t, ok := p.([]any); ok && len(t) == 3 {
			v := info{"a": t[0], "p": t[1], "t": t[2]}
			st.Portals = append(st.Portals, nvmePortal{v.str("a"), v.str("p"), v.str("t")})
		}
	}
	if len(st.Portals) == 0 {
		st.Portals = []nvmePortal{{i.str("target_portal"), i.str("target_port"), i.str("transport_type")}}
	}
	for k, p := range st.Portals {
		transport := map[string]string{"tcp": "tcp", "NVMe-oF-TCP": "tcp", "": "tcp", "rdma": "rdma", "RoCEv2": "rdma"}[p.Transport]
		if !hostName.MatchString(p.Address) || !portNumber.MatchString(p.Port) || transport == "" {
			return Device{}, failure.Invalid("the NVMe portal %q, port %q, transport %q, is no address", p.Address, p.Port, p.Transport)
		}
		st.Portals[k].Transport = transport
	}
	st.NGUID = strings.ToLower(strings.ReplaceAll(st.NGUID, "-", ""))
	if st.UUID == "" && st.NGUID == "" {
		st.NSID, _ = number(i["ns_id"])
		if st.NSID == 0 {
			return Device{}, failure.Invalid("the connection says no vol_uuid, volume_nguid or ns_id, so the namespace could only be guessed")
		}
	}
	return encode(dev, st)
}

func (n nvmeDriver) connect(ctx context.Context, req Request, dev Device) (Device, error) {
	var st nvmeState
	if err := decode(dev, &st); err != nil {
		return Device{}, err
	}
	err := n.h.exclusive(ctx, "nvmeof", func() error {
		if err := n.users(st).add(st.Attachment); err != nil {
			return err
		}
		fault.Point("connector/nvmeof/counted")
		if n.subsystem(st.NQN) == "" {
			if err := n.login(ctx, st); err != nil {
				return err
			}
		}
		fault.Point("connector/nvmeof/connected")
		ctx, cancel := context.WithTimeout(ctx, deviceLimit)
		defer cancel()
		err := poll(ctx, "the kernel to show the NVMe namespace", func() (bool, error) {
			dev.Path = n.device(st)
			return dev.Path != "", nil
		})
		if err != nil {
			err = fmt.Errorf("%s at %v: %w", st.NQN, st.Portals, err)
		}
		return err
	})
	return dev, err
}

func (p nvmePortal) String() string { return net.JoinHostPort(p.Address, p.Port) }

// users counts the attachments that have a volume of a subsystem.
func (n nvmeDriver) users(st nvmeState) holders {
	sum := sha256.Sum256([]byte(st.NQN))
	return holders(filepath.Join(n.h.stateDir(), "subsystems", hex.EncodeToString(sum[:8])))
}

func (n nvmeDriver) login(ctx context.Context, st nvmeState) error {
	var errs []error
	for _, p := range st.Portals {
		argv := []string{"nvme", "connect", "-t", p.Transport, "-n", st.NQN, "-a", p.Address, "-s", p.Port}
		if host := n.h.firstLine("etc/nvme/hostnqn"); nqnName.MatchString(host) {
			argv = append(argv, "-q", host)
		}
		_, err := n.h.o.Run(ctx, argv...)
		if err == nil {
			return nil
		}
		errs = append(errs, err, n.drop(ctx, st.NQN))
	}
	return errors.Join(errs...)
}

// drop takes away the controllers that a failed connect leaves, which go on trying. They
// belong to no subsystem yet.
func (n nvmeDriver) drop(ctx context.Context, nqn string) (err error) {
	for _, dir := range n.h.glob("sys/class/nvme/nvme*") {
		name := filepath.Base(dir)
		if n.h.firstLine(dir, "subsysnqn") != nqn || len(n.h.glob("sys/class/nvme-subsystem/*/"+name)) > 0 {
			continue
		}
		_, e := n.h.o.Run(ctx, "nvme", "disconnect", "-d", name)
		err = errors.Join(err, e)
	}
	return err
}

// subsystem finds the subsystem with a name; "" when it is not connected. The kernel may
// still show one after its last controller went.
func (n nvmeDriver) subsystem(nqn string) string {
	for _, dir := range n.h.glob("sys/class/nvme-subsystem/nvme-subsys*") {
		if n.h.firstLine(dir, "subsysnqn") == nqn && slices.ContainsFunc(n.h.glob(dir+"/nvme*/state"), n.stays) {
			return dir
		}
	}
	return ""
}

// stays says of a controller's file state that it is not being taken away.
func (n nvmeDriver) stays(file string) bool {
	state := n.h.firstLine(file)
	return state != "" && state != "dead" && !strings.HasPrefix(state, "deleting")
}

// namespace is the name of a namespace's block device: with multipath it hangs on
// the subsystem, without on the controller. Paths (nvmeXcYnZ) are not meant.
var namespace = regexp.MustCompile(`^nvme[0-9]+n[0-9]+$`)

// namespaces lists the directories of a subsystem's namespaces.
func (n nvmeDriver) namespaces(subsystem string) []string {
	var out []string
	seen := map[string]bool{}
	for _, dir := range append(n.h.glob(subsystem+"/nvme*n*"), n.h.glob(subsystem+"/nvme*/nvme*n*")...) {
		if name := filepath.Base(dir); namespace.MatchString(name) && !seen[name] {
			seen[name] = true
			out = append(out, dir)
		}
	}
	return out
}

// device finds the volume's block device; "" when the kernel shows none.
func (n nvmeDriver) device(st nvmeState) string {
	subsystem := n.subsystem(st.NQN)
	if subsystem == "" {
		return ""
	}
	for _, dir := range n.namespaces(subsystem) {
		nguid := strings.ToLower(strings.ReplaceAll(n.h.firstLine(dir, "nguid"), "-", ""))
		switch {
		case st.UUID != "" && strings.ToLower(n.h.firstLine(dir, "uuid")) == st.UUID,
			st.UUID == "" && st.NGUID != "" && nguid == st.NGUID,
			st.NSID != 0 && n.h.firstLine(dir, "nsid") == strconv.Itoa(st.NSID):
			return n.h.fs("dev", filepath.Base(dir))
		}
	}
	return ""
}

// disconnect flushes, and leaves the subsystem when nothing on this host uses another
// namespace of it. That there is another says nothing: the target shows all of them to each
// of its hosts.
func (n nvmeDriver) disconnect(ctx context.Context, dev Device) error {
	var st nvmeState
	if err := decode(dev, &st); err != nil {
		return err
	}
	return n.h.exclusive(ctx, "nvmeof", func() error {
		if subsystem := n.subsystem(st.NQN); subsystem != "" {
			if err := n.leave(ctx, st, subsystem, dev.ReadOnly); err != nil {
				return err
			}
		}
		if st.Attachment == "" {
			return nil
		}
		if err := n.users(st).remove(st.Attachment); err != nil {
			return err
		}
		err := os.Remove(string(n.users(st))) // takes an empty directory only
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		return err
	})
}

func (n nvmeDriver) leave(ctx context.Context, st nvmeState, subsystem string, readOnly bool) error {
	path := n.device(st)
	if path != "" {
		claimed, err := n.h.claim(ctx, filepath.Base(path))
		if err != nil {
			return err
		}
		defer claimed.Close()
		if claimed != nil && !readOnly {
			if err := n.h.flushApart(ctx, path); err != nil {
				return fmt.Errorf("%w: %v; bring the storage back and try again", ErrNotFlushed, err)
			}
		}
	}
	fault.Point("connector/nvmeof/flushed")
	if others, err := n.users(st).others(st.Attachment); err != nil || others {
		return err
	}
	for _, dir := range n.namespaces(subsystem) {
		name := filepath.Base(dir)
		if n.h.fs("dev", name) == path {
			continue
		}
		claimed, by, err := n.h.tryClaim(name)
		if err != nil || by != "" {
			return err // another program's, or of an lxcboot with another state directory
		}
		defer claimed.Close()
	}
	_, err := n.h.o.Run(ctx, "nvme", "disconnect", "-n", st.NQN)
	if err != nil && n.subsystem(st.NQN) == "" {
		return nil
	}
	return err
}
