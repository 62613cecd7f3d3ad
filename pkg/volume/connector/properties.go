package connector

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/host"
)

// Properties describes this host to the storage service, under the names of
// os-brick's get_connector_properties.
func (h *Host) Properties(ctx context.Context) (map[string]any, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("this host's name: %w", err)
	}
	initiator, err := h.initiator()
	if err != nil {
		return nil, err
	}
	ip := h.o.IP
	if ip == "" {
		ip = firstAddress()
	}
	p := map[string]any{
		"host":            name,
		"ip":              ip,
		"initiator":       initiator,
		"multipath":       h.multipathd(ctx),
		"do_local_attach": false,
		"os_type":         "linux",
		"platform":        host.Machine(),
	}
	if uuid := h.firstLine("sys/class/dmi/id/product_uuid"); uuid != "" {
		p["system uuid"] = uuid
	}
	if nqn := h.firstLine("etc/nvme/hostnqn"); nqn != "" {
		p["nqn"] = nqn
	}
	ports, nodes := h.fcNames()
	if len(ports) > 0 {
		p["wwpns"], p["wwnns"] = ports, nodes
	}
	return p, nil
}

// initiator is this host's iSCSI name: that of the kernel's initiator where one
// is set up, else one that is made once and kept in the state directory.
func (h *Host) initiator() (string, error) {
	if b, err := os.ReadFile(h.fs("etc/iscsi/initiatorname.iscsi")); err == nil {
		for line := range strings.Lines(string(b)) {
			name, ok := strings.CutPrefix(strings.TrimSpace(line), "InitiatorName=")
			if ok && iscsiName.MatchString(name) {
				return name, nil
			}
		}
	}
	path := filepath.Join(h.o.StateDir, "initiator")
	for range 2 {
		b, err := os.ReadFile(path)
		if err == nil {
			name := strings.TrimSpace(string(b))
			if !iscsiName.MatchString(name) {
				return "", fmt.Errorf("%s holds %q, which is no iSCSI name; remove the file to have a new one made", path, name)
			}
			return name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("this host's iSCSI name: %w", err)
		}
		if err := makeInitiator(path); err != nil {
			return "", fmt.Errorf("keeping this host's iSCSI name: %w", err)
		}
	}
	return "", fmt.Errorf("%s is removed as fast as it is made", path)
}

// makeInitiator writes a new name, complete or not at all; of two processes that
// do so at once the first wins, and both then read its name.
func makeInitiator(path string) error {
	id := make([]byte, 6)
	rand.Read(id)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".initiator-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString("iqn.2026-01.com.github.lxcboot:" + hex.EncodeToString(id) + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

// fcNames lists the port and node names of the fibre channel ports that are up.
func (h *Host) fcNames() (ports, nodes []string) {
	hosts, _ := filepath.Glob(h.fs("sys/class/fc_host/host*"))
	slices.Sort(hosts)
	for _, dir := range hosts {
		rel, _ := filepath.Rel(h.o.Root, dir)
		port := strings.TrimPrefix(h.firstLine(rel, "port_name"), "0x")
		if port == "" || h.firstLine(rel, "port_state") != "Online" {
			continue
		}
		ports = append(ports, port)
		nodes = append(nodes, strings.TrimPrefix(h.firstLine(rel, "node_name"), "0x"))
	}
	return ports, nodes
}

// firstLine is the first line of a file of this host, or "".
func (h *Host) firstLine(elem ...string) string {
	f, err := os.Open(h.fs(elem...))
	if err != nil {
		return ""
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan()
	return strings.TrimSpace(s.Text())
}

// firstAddress is the first global unicast address of an interface that is up,
// IPv4 before IPv6; loopback when there is none.
func firstAddress() string {
	addrs, _ := net.InterfaceAddrs()
	v6 := ""
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() {
			continue
		}
		if n.IP.To4() != nil {
			return n.IP.String()
		}
		if v6 == "" {
			v6 = n.IP.String()
		}
	}
	if v6 != "" {
		return v6
	}
	return "127.0.0.1"
}
