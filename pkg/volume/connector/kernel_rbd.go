package connector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/fault"
)

// kernelRBD maps a Ceph image by the rbd tool and finds the device in sysfs.
type kernelRBD struct{ h *Host }

type kernelRBDState struct {
	Attachment string `json:"attachment"`
	Pool       string `json:"pool"`
	Namespace  string `json:"namespace,omitempty"`
	Image      string `json:"image"`
}

func (k kernelRBD) prepare(_ context.Context, req Request, dev Device) (Device, error) {
	v, err := rbdConnection(k.h, req.Connection.Data)
	if err != nil {
		return Device{}, err
	}
	return encode(dev, kernelRBDState{req.AttachmentID, v.pool, v.namespace, v.image})
}

func (k kernelRBD) connect(ctx context.Context, req Request, dev Device) (Device, error) {
	var st kernelRBDState
	if err := decode(dev, &st); err != nil {
		return Device{}, err
	}
	v, err := rbdConnection(k.h, req.Connection.Data)
	if err != nil {
		return Device{}, err
	}
	if dev.Path = k.device(st); dev.Path != "" {
		return dev, nil
	}
	if err := dialAny(ctx, v.monitors); err != nil { // the tool would go on trying
		return Device{}, err
	}
	dir := k.dir(st)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Device{}, err
	}
	defer k.clean(st) // the key is not needed once it is mapped
	conf, key := filepath.Join(dir, "conf"), filepath.Join(dir, "key")
	for path, text := range map[string]string{conf: "", key: v.key} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return Device{}, err
		}
	}
	argv := slices.Concat([]string{"rbd", "map"}, v.named(), v.client(conf, key))
	if dev.ReadOnly {
		argv = append(argv, "--read-only")
	}
	fault.Point("connector/rbd/key-written")
	ctx, cancel := context.WithTimeoutCause(ctx, deviceLimit, fmt.Errorf(
		"after %s; the monitors answer, so the key of client.%s may not be the cluster's, or its OSDs are down", deviceLimit, v.user))
	defer cancel()
	if _, err := k.h.o.Run(ctx, argv...); err != nil {
		return Device{}, err
	}
	fault.Point("connector/rbd/mapped")
	err = poll(ctx, "the kernel to show "+v.pool+"/"+v.image, func() (bool, error) {
		dev.Path = k.device(st)
		return dev.Path != "", nil
	})
	return dev, err
}

// device finds the block device of an image by what the kernel says is mapped;
// "" when it is not.
func (k kernelRBD) device(st kernelRBDState) string {
	for _, dir := range k.h.glob("sys/bus/rbd/devices/*") {
		if k.h.firstLine(dir, "pool") == st.Pool && k.h.firstLine(dir, "name") == st.Image &&
			k.h.firstLine(dir, "pool_ns") == st.Namespace && k.h.firstLine(dir, "current_snap") == "-" {
			return k.h.fs("dev", "rbd"+filepath.Base(dir))
		}
	}
	return ""
}

func (k kernelRBD) disconnect(ctx context.Context, dev Device) error {
	var st kernelRBDState
	if err := decode(dev, &st); err != nil {
		return err
	}
	if path := k.device(st); path != "" {
		claimed, err := k.h.claim(ctx, filepath.Base(path))
		if err != nil {
			return err
		}
		claimed.Close() // or it could not be unmapped
		if claimed != nil && !dev.ReadOnly {
			if err := k.h.flushApart(ctx, path); err != nil {
				return fmt.Errorf("%w: %v; bring the storage back and try again", ErrNotFlushed, err)
			}
		}
		fault.Point("connector/rbd/flushed")
		if _, err := k.h.o.Run(ctx, "rbd", "unmap", path); err != nil && k.device(st) != "" {
			return err
		}
		fault.Point("connector/rbd/unmapped")
	}
	return k.clean(st)
}

func (k kernelRBD) dir(st kernelRBDState) string {
	return filepath.Join(k.h.stateDir(), "attachments", st.Attachment)
}

// clean removes the files that mapping needs.
func (k kernelRBD) clean(st kernelRBDState) error {
	for _, name := range []string{"key", "conf", ""} {
		if err := os.Remove(filepath.Join(k.dir(st), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
