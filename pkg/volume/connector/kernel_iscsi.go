package connector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// The statuses of iscsiadm that mean "it is so already" (iscsiadm(8)).
const (
	iscsiSessionExists = 15
	iscsiNoObject      = 21
)

// kernelISCSI logs in by open-iscsi and finds the disk by the session and LUN in
// sysfs.
type kernelISCSI struct{ h *Host }

type kernelISCSIState struct {
	Targets []iscsiTarget `json:"targets"`
	Paths   []iscsiPath   `json:"paths,omitempty"` // connected; several where multipathd runs
}

type iscsiPath struct {
	iscsiTarget
	Disk scsiDisk `json:"disk"`
}

func (k kernelISCSI) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	i := info(req.Connection.Data)
	targets, err := iscsiTargets(i)
	if err != nil {
		return Device{}, err
	}
	if _, err := iscsiCHAP(i, "auth"); err != nil {
		return Device{}, err
	}
	return encode(dev, kernelISCSIState{Targets: targets})
}

func (k kernelISCSI) connect(ctx context.Context, req Request, dev Device) (Device, error) {
	var st kernelISCSIState
	if err := decode(dev, &st); err != nil {
		return Device{}, err
	}
	login, err := iscsiCHAP(req.Connection.Data, "auth")
	if err != nil {
		return Device{}, err
	}
	all := len(st.Targets) > 1 && k.h.multipathd(ctx)
	st.Paths = nil
	var errs []error
	for _, t := range st.Targets {
		if len(st.Paths) > 0 && !all {
			break
		}
		err := k.h.exclusive(ctx, "iscsi", func() error {
			disk, err := k.attach(ctx, t, login)
			if err == nil && len(st.Paths) > 0 && disk.WWID != st.Paths[0].Disk.WWID {
				err = failure.Invalid("it is another disk than that of %s", st.Paths[0].iscsiTarget)
			}
			if err != nil { // or the login stays in its record when another portal answers
				return errors.Join(err, k.detach(context.WithoutCancel(ctx), []iscsiTarget{t}, nil, true))
			}
			st.Paths = append(st.Paths, iscsiPath{t, *disk})
			return nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t, err))
		}
	}
	if len(st.Paths) == 0 {
		return Device{}, errors.Join(errs...)
	}
	name, err := k.h.assemble(ctx, disks(st.Paths))
	if err != nil {
		return Device{}, err
	}
	if name == "" { // the first path it is, alone
		err := k.h.exclusive(ctx, "iscsi", func() error { return k.detach(ctx, nil, st.Paths[1:], true) })
		if err != nil {
			return Device{}, err
		}
		st.Paths = st.Paths[:1]
		name = st.Paths[0].Disk.Name
	}
	dev.Path = k.h.fs("dev", name)
	return encode(dev, st)
}

func (k kernelISCSI) attach(ctx context.Context, t iscsiTarget, login chap) (*scsiDisk, error) {
	node := []string{"iscsiadm", "-m", "node", "-T", t.IQN, "-p", t.Portal}
	if _, err := k.h.o.Run(ctx, node...); exitCode(err) == iscsiNoObject {
		_, err = k.h.o.Run(ctx, append(node, "--interface", "default", "--op", "new")...)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	fault.Point("connector/iscsi/recorded")
	// Only the LUN that is asked for shall appear, and nothing at the next boot; a portal
	// that does not answer is given up after one more try, and not after eight of 15 seconds.
	settings := [][2]string{{"node.session.scan", "manual"}, {"node.startup", "manual"},
		{"node.conn[0].timeo.login_timeout", "5"}, {"node.session.initial_login_retry_max", "1"}}
	for _, s := range settings {
		_, err := k.h.o.Run(ctx, append(node, "--op", "update", "-n", s[0], "-v", s[1])...)
		if err != nil && s[0] != "node.session.scan" { // unknown to an old open-iscsi
			return nil, err
		}
	}
	if login != (chap{}) {
		if err := k.writeLogin(t, login); err != nil {
			return nil, err
		}
	}
	if _, err := k.h.o.Run(ctx, append(node, "--login")...); err != nil && exitCode(err) != iscsiSessionExists {
		return nil, err
	}
	fault.Point("connector/iscsi/logged-in")
	ctx, cancel := context.WithTimeout(ctx, deviceLimit)
	defer cancel()
	var disk *scsiDisk
	var scanned time.Time
	err := poll(ctx, "the kernel to show the LUN", func() (bool, error) {
		s := k.session(t)
		if s == nil {
			return false, nil
		}
		var err error
		if disk, err = k.disk(*s, t.LUN); err != nil || disk != nil {
			return true, err
		}
		if time.Since(scanned) < 5*time.Second {
			return false, nil
		}
		scanned = time.Now()
		return false, k.h.scan(s.host, "0", "0", t.LUN)
	})
	return disk, err
}

// writeLogin puts name and password into open-iscsi's record of the node, which
// only root reads. iscsiadm could be told them in arguments only, where every
// user of the host would see them.
func (k kernelISCSI) writeLogin(t iscsiTarget, login chap) error {
	host, port, _ := net.SplitHostPort(t.Portal)
	var files []string
	for _, dir := range []string{"etc/iscsi/nodes", "var/lib/iscsi/nodes"} {
		base := filepath.Join(dir, t.IQN, host+","+port)
		files = append(files, k.h.glob(base)...)
		files = append(files, k.h.glob(base+",*/*")...)
		files = append(files, k.h.glob(base+",*")...)
	}
	written := 0
	for _, f := range files {
		path := k.h.fs(f)
		fi, err := os.Lstat(path)
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(path, withLogin(b, login), 0o600); err != nil {
			return fmt.Errorf("writing the login into %s: %w", path, err)
		}
		written++
	}
	if written == 0 {
		return failure.Of(volume.ErrNotFound, "open-iscsi's record of %s is not where it is looked for (/etc/iscsi/nodes, /var/lib/iscsi/nodes)", t.IQN)
	}
	return nil
}

// withLogin returns a node record with the session's login replaced.
func withLogin(record []byte, login chap) []byte {
	values := [][2]string{
		{"node.session.auth.authmethod", "CHAP"},
		{"node.session.auth.username", login.user},
		{"node.session.auth.password", login.password},
	}
	var out strings.Builder
	put := func() {
		for _, v := range values {
			fmt.Fprintf(&out, "%s = %s\n", v[0], v[1])
		}
		values = nil
	}
	for line := range strings.Lines(string(record)) {
		key, _, _ := strings.Cut(line, "=")
		switch key = strings.TrimSpace(key); {
		case key == "node.session.auth.authmethod", key == "node.session.auth.username", key == "node.session.auth.password":
			continue
		case strings.HasPrefix(key, "# END RECORD"):
			put()
		}
		out.WriteString(line)
	}
	put()
	return []byte(out.String())
}

// iscsiSession is a session of the kernel.
type iscsiSession struct {
	name string // sessionN
	host int    // its SCSI host
}

// session finds the session with a target at a portal; nil when there is none.
func (k kernelISCSI) session(t iscsiTarget) *iscsiSession {
	for _, dir := range k.h.glob("sys/class/iscsi_session/session*") {
		name := filepath.Base(dir)
		if k.h.firstLine(dir, "targetname") != t.IQN {
			continue
		}
		conn := filepath.Join("sys/class/iscsi_connection", "connection"+strings.TrimPrefix(name, "session")+":0")
		portal := net.JoinHostPort(k.h.firstLine(conn, "persistent_address"), k.h.firstLine(conn, "persistent_port"))
		if portal != t.Portal {
			continue
		}
		for _, hostDir := range k.h.glob("sys/class/iscsi_host/host*/device/" + name) {
			host, err := strconv.Atoi(strings.TrimPrefix(strings.Split(hostDir, "/")[3], "host"))
			if err == nil {
				return &iscsiSession{name, host}
			}
		}
	}
	return nil
}

// disk finds the disk of a LUN in a session; nil when the kernel shows none yet.
func (k kernelISCSI) disk(s iscsiSession, lun int) (*scsiDisk, error) {
	for _, dir := range k.luns(s) {
		if strings.HasSuffix(dir, ":"+strconv.Itoa(lun)) {
			return k.h.scsiDiskAt(filepath.Base(dir))
		}
	}
	return nil, nil
}

// luns lists the SCSI devices of a session.
func (k kernelISCSI) luns(s iscsiSession) []string {
	return k.h.glob(fmt.Sprintf("sys/class/iscsi_host/host%d/device/%s/target*/%[1]d:*:*:*", s.host, s.name))
}

func (k kernelISCSI) disconnect(ctx context.Context, dev Device) error {
	var st kernelISCSIState
	if err := decode(dev, &st); err != nil {
		return err
	}
	return k.h.exclusive(ctx, "iscsi", func() error { return k.detach(ctx, st.Targets, st.Paths, dev.ReadOnly) })
}

func disks(paths []iscsiPath) []scsiDisk {
	all := make([]scsiDisk, len(paths))
	for n, p := range paths {
		all[n] = p.Disk
	}
	return all
}

// detach removes the disk that was connected by these paths, or without any, as after a
// crash, what the targets have at the volume's address; and logs out where no other LUN is
// used by the session.
func (k kernelISCSI) detach(ctx context.Context, targets []iscsiTarget, paths []iscsiPath, readOnly bool) error {
	if len(paths) > 0 {
		targets = nil
		for _, p := range paths {
			targets = append(targets, p.iscsiTarget)
		}
	} else {
		for _, t := range targets {
			s := k.session(t)
			if s == nil {
				continue
			}
			disk, err := k.disk(*s, t.LUN)
			if err != nil {
				return fmt.Errorf("%s: %w", t, err)
			}
			if disk != nil {
				paths = append(paths, iscsiPath{t, *disk})
			}
		}
	}
	if err := k.h.removeDisks(ctx, disks(paths), readOnly); err != nil {
		return err
	}
	fault.Point("connector/iscsi/disk-removed")
	for _, t := range targets {
		if err := k.logout(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
	}
	return nil
}

// logout ends the session with a target that no LUN is used of, and removes its record.
func (k kernelISCSI) logout(ctx context.Context, t iscsiTarget) error {
	if s := k.session(t); s != nil {
		for _, dir := range k.luns(*s) {
			other, err := k.h.scsiDiskAt(filepath.Base(dir))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if other != nil {
				return nil // another volume of the same target
			}
		}
	}
	node := []string{"iscsiadm", "-m", "node", "-T", t.IQN, "-p", t.Portal}
	for _, act := range [][]string{{"--logout"}, {"--op", "delete"}} {
		if _, err := k.h.o.Run(ctx, append(node, act...)...); err != nil && exitCode(err) != iscsiNoObject {
			return err
		}
		fault.Point("connector/iscsi/" + strings.TrimLeft(act[len(act)-1], "-"))
	}
	return nil
}
