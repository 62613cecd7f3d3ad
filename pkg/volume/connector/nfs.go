package connector

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// nfsDriver is for volumes that are files of an NFS export. The export is
// mounted once per host; a raw file is the device itself, a qcow2 file is served
// as raw content by a qemu-storage-daemon. What a file is, the connection says:
// it is never guessed from content that a container can write.
type nfsDriver struct{ h *Host }

// nfsState is saved of such a device.
type nfsState struct {
	Attachment string `json:"attachment"`
	Export     string `json:"export"` // host:/path
	Options    string `json:"options,omitempty"`
	Name       string `json:"name"` // the file in the export
	Format     string `json:"format"`
	PID        int    `json:"pid,omitempty"`
}

func (st nfsState) share(h *Host) share { return h.share(st.Export, st.Options) }

func (n nfsDriver) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	i := info(req.Connection.Data)
	st := nfsState{Attachment: req.AttachmentID}
	var err error
	if st.Export, err = i.need("export"); err != nil {
		return Device{}, err
	}
	if st.Name, err = i.need("name"); err != nil {
		return Device{}, err
	}
	if err := checkExport(st.Export); err != nil {
		return Device{}, err
	}
	if !fileName.MatchString(st.Name) {
		return Device{}, failure.Invalid("name %q is not the plain name of a file", st.Name)
	}
	if st.Options, err = nfsOptions(i.str("options")); err != nil {
		return Device{}, err
	}
	switch st.Format = i.str("format"); st.Format {
	case "raw":
		dev.Path = filepath.Join(st.share(n.h).target(), st.Name)
	case "qcow2":
		if _, err := findTool(storageDaemon); err != nil {
			return Device{}, failure.Of(volume.ErrUnsupported, "a qcow2 volume needs the program %s", storageDaemon)
		}
		dev.Path = n.h.daemon(st.Attachment).path()
	case "":
		return Device{}, failure.Invalid("the connection does not say the format of %s, and lxcboot does not guess it", st.Name)
	default:
		return Device{}, failure.Of(volume.ErrUnsupported, "format %q of %s; known are raw and qcow2", st.Format, st.Name)
	}
	return encode(dev, st)
}

func (n nfsDriver) connect(ctx context.Context, _ Request, dev Device) (Device, error) {
	var st nfsState
	if err := decode(dev, &st); err != nil {
		return Device{}, err
	}
	s := st.share(n.h)
	if err := s.acquire(ctx, st.Attachment, st.Export, st.Options); err != nil {
		return Device{}, err
	}
	fault.Point("connector/nfs/mounted")
	var chain []args
	err := within(ctx, "looking into "+st.Export, func() error {
		dir, err := os.OpenRoot(s.target())
		if err != nil {
			return err
		}
		defer dir.Close()
		fi, err := dir.Lstat(st.Name)
		if err != nil {
			return failure.Of(volume.ErrNotFound, "the export %s has no such volume file: %v", st.Export, err)
		}
		if !fi.Mode().IsRegular() {
			return failure.Invalid("%s in %s is not a regular file", st.Name, st.Export)
		}
		if st.Format == "qcow2" {
			chain, err = qcow2Chain(dir, s.target(), st.Name, dev.ReadOnly)
		}
		return err
	})
	if err != nil {
		return Device{}, err
	}
	if st.Format == "raw" {
		dev.Path = filepath.Join(s.target(), st.Name)
		return dev, nil
	}
	d := n.h.daemon(st.Attachment)
	dev.Path = d.path()
	st.PID, err = d.serve(ctx, stack{candidates: []candidate{{name: st.Name, nodes: chain}}}, dev.ReadOnly)
	if err != nil {
		return Device{}, err
	}
	return encode(dev, st)
}

func (n nfsDriver) disconnect(ctx context.Context, dev Device) error {
	var st nfsState
	if err := decode(dev, &st); err != nil {
		return err
	}
	if st.Format == "qcow2" {
		if err := n.h.daemon(st.Attachment).stop(ctx); err != nil {
			return err
		}
	}
	s := st.share(n.h)
	mounted, err := s.mounted()
	if err != nil {
		return err
	}
	if file := filepath.Join(s.target(), st.Name); mounted && st.Format == "raw" {
		// The mount shows no user of it while it is another volume's too.
		if err := idle(ctx, file); err != nil {
			return err
		}
		if !dev.ReadOnly {
			if err := n.h.flushApart(ctx, file); err != nil {
				return fmt.Errorf("%w: %v; bring %s back and try again", ErrNotFlushed, err, st.Export)
			}
		}
	}
	fault.Point("connector/nfs/flushed")
	return s.release(ctx, st.Attachment)
}

// fileName is a plain name, neither an option nor a way to another directory.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)

var exportPath = regexp.MustCompile(`^/[A-Za-z0-9_./+:@~-]*$`)

// checkExport refuses an export that mount(8) could take for anything else, or
// that leaves the directory it names.
func checkExport(export string) error {
	at := strings.Index(export, ":/")
	if at > 0 {
		host, path := strings.TrimSuffix(strings.TrimPrefix(export[:at], "["), "]"), export[at+1:]
		if hostName.MatchString(host) && exportPath.MatchString(path) && !strings.Contains(path+"/", "/../") {
			return nil
		}
	}
	return failure.Invalid("export %q is not HOST:/PATH", export)
}

// nfsWords are the mount options a connection may ask for: those of nfs(5) and
// those that only take rights away.
var nfsWords = func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`vers nfsvers minorversion proto tcp udp rdma port clientaddr
		mountproto mountport mountvers mounthost rsize wsize timeo retrans retry sec hard soft softerr
		softreval nosoftreval intr nointr lock nolock local_lock cto nocto ac noac actimeo acregmin acregmax
		acdirmin acdirmax sharecache nosharecache resvport noresvport lookupcache fsc nofsc migration
		nomigration nconnect max_connect trunkdiscovery notrunkdiscovery fg rdirplus nordirplus acl noacl
		xprtsec namlen sync async atime noatime relatime nodiratime rw nodev nosuid noexec context`) {
		m[w] = true
	}
	return m
}()

var nfsValue = regexp.MustCompile(`^[A-Za-z0-9_.:/%@-]*$`)

// nfsOptions reads the options of a connection, in the form of arguments of
// mount(8) ("-o vers=4,soft"), and returns them comma-separated. Whatever is not
// an option of NFS is refused.
func nfsOptions(s string) (string, error) {
	var all []string
	for _, word := range strings.Fields(s) {
		for opt := range strings.SplitSeq(strings.TrimPrefix(word, "-o"), ",") {
			if opt == "" {
				continue
			}
			key, value, _ := strings.Cut(opt, "=")
			if !nfsWords[key] || !nfsValue.MatchString(value) {
				return "", failure.Invalid("mount option %q is not one of NFS", opt)
			}
			all = append(all, opt)
		}
	}
	return strings.Join(all, ","), nil
}
