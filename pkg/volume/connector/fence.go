package connector

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// Fence keeps those who have a volume open now from writing to it, where its storage can do
// that, and names them. So far that is Ceph's blocklist, of the clients that watch the image
// or have its lock: for an hour, which is Ceph's default. All other storage has no such
// thing, and there it does nothing.
func (h *Host) Fence(ctx context.Context, req Request) (clients []string, err error) {
	if req.Connection.Driver != "rbd" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.o.Timeout)
	defer cancel()
	if clients, err = h.fenceRBD(ctx, info(req.Connection.Data)); err != nil {
		err = fmt.Errorf("volume %s over rbd: %w", req.VolumeID, redacted(err, secretsOf(req.Connection.Data)))
	}
	return clients, err
}

func (h *Host) fenceRBD(ctx context.Context, data info) ([]string, error) {
	v, err := rbdConnection(h, data)
	if err != nil {
		return nil, err
	}
	if err := dialAny(ctx, v.monitors); err != nil { // the tools would go on trying
		return nil, err
	}
	// The key is in memory alone, and goes with this process.
	key, err := unix.MemfdCreate("key", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(key), "key")
	defer file.Close()
	if _, err := file.WriteString(v.key); err != nil {
		return nil, err
	}
	client := v.client(os.DevNull, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), key))
	image := append([]string{"--format", "json"}, v.named()...)
	status, err := h.o.Run(ctx, slices.Concat([]string{"rbd", "status"}, image, client)...)
	if err != nil {
		return nil, err
	}
	locks, err := h.o.Run(ctx, slices.Concat([]string{"rbd", "lock", "list"}, image, client)...)
	if err != nil {
		return nil, err
	}
	clients, err := rbdClients(status, locks)
	if err != nil {
		return nil, err
	}
	for i, address := range clients {
		if _, err := h.o.Run(ctx, slices.Concat([]string{"ceph", "osd", "blocklist", "add", address}, client)...); err != nil {
			return clients[:i], err
		}
	}
	return clients, nil
}

// rbdClients are the addresses of those who watch an image or have its lock, of what 'rbd
// status' and 'rbd lock list' say in JSON. The latter is a list, and was an object by the
// lock's name.
func rbdClients(status, locks string) (addresses []string, err error) {
	type client struct {
		Address string `json:"address"`
	}
	var watched struct {
		Watchers []client `json:"watchers"`
	}
	if err := json.Unmarshal([]byte(status), &watched); err != nil {
		return nil, failure.Invalid("what rbd says of the image's users is not understood: %v", err)
	}
	all := watched.Watchers
	var list []client
	named := map[string]client{}
	switch {
	case json.Unmarshal([]byte(locks), &list) == nil:
		all = append(all, list...)
	case json.Unmarshal([]byte(locks), &named) == nil:
		for _, c := range named {
			all = append(all, c)
		}
	default:
		return nil, failure.Invalid("what rbd says of the image's locks is not understood: %q", locks)
	}
	for _, c := range all {
		if c.Address != "" {
			addresses = append(addresses, c.Address)
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}
