package connector

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// twoPorts is a world in which two ports of fibre channel lead to one disk.
func twoPorts(t *testing.T) (*world, *Host, Request) {
	w, h := newWorld(t)
	for n, port := range []string{"50014380186b3f65", "50014380186b3f67"} {
		host := string(rune('5' + n))
		rport := "sys/class/fc_remote_ports/rport-" + host + ":0-1/"
		put(t, w.root, rport+"port_name", "0x"+port+"\n")
		put(t, w.root, rport+"scsi_target_id", "3\n")
		put(t, w.root, rport+"port_state", "Online\n")
		scan := "sys/class/scsi_host/host" + host + "/scan"
		put(t, w.root, scan, "")
		w.mu.Lock()
		w.acts[scan] = func(string) {
			w.disk("sys/devices/fc/"+host, host+":0:3:7", "sd"+host, "naa.600")
		}
		w.mu.Unlock()
	}
	return w, h, recorded(t, "fibre_channel")
}

// With multipathd there is one device of both paths, which is taken apart before them.
func TestMultipath(t *testing.T) {
	w, h, req := twoPorts(t)
	w.multipathd = func(argv []string) (string, error) {
		switch strings.Join(argv[:2], " ") {
		case "multipathd add":
			put(t, w.root, "sys/block/"+argv[3]+"/holders/dm-4", "")
			put(t, w.root, "sys/block/dm-4/dm/uuid", "mpath-3600\n")
			put(t, w.root, "sys/block/dm-4/dm/name", "mpatha\n")
			put(t, w.root, "dev/dm-4", "")
		case "multipath -f":
			for _, path := range []string{"sys/block/sd5/holders", "sys/block/sd6/holders", "sys/block/dm-4", "dev/dm-4"} {
				os.RemoveAll(filepath.Join(w.root, path))
			}
		}
		return "", nil
	}
	planned := prepare(t, fcDriver{h}, req)
	dev, err := h.Connect(t.Context(), req, planned)
	if err != nil {
		t.Fatal(err)
	}
	if dev.Path != w.root+"/dev/dm-4" {
		t.Errorf("path %s", dev.Path)
	}
	expect(t, "connect", w.commands(), []string{
		"multipathd show status", "multipathd show status",
		"multipath -a " + w.root + "/dev/sd5", "multipathd add path sd5", "multipathd add path sd6",
	})
	if err := h.Disconnect(t.Context(), planned); err != nil { // what it became was lost in a crash
		t.Fatal(err)
	}
	expect(t, "disconnect", w.commands(), []string{"multipath -f mpatha", "multipath -w 3600"})
	if exists(w.root+"/dev/sd5") || exists(w.root+"/dev/sd6") {
		t.Error("a disk is left")
	}
	if !slices.Contains(w.flushed, w.root+"/dev/dm-4") {
		t.Errorf("flushed: %q", w.flushed)
	}
}

// A multipathd that is configured to leave the disk alone has the first path taken, and
// the other let go.
func TestMultipathLeavesIt(t *testing.T) {
	w, h, req := twoPorts(t)
	w.multipathd = func(argv []string) (string, error) {
		if argv[1] == "add" {
			return "blacklisted\n", nil
		}
		return "", nil
	}
	dev, err := h.Connect(t.Context(), req, prepare(t, fcDriver{h}, req))
	if err != nil {
		t.Fatal(err)
	}
	if dev.Path != w.root+"/dev/sd5" || exists(w.root+"/dev/sd6") {
		t.Errorf("path %s", dev.Path)
	}
	if err := h.Disconnect(t.Context(), dev); err != nil || exists(w.root+"/dev/sd5") {
		t.Errorf("%v", err)
	}
}

// Two ports that show two disks are no two ways to one.
func TestMultipathOtherDisk(t *testing.T) {
	w, h, req := twoPorts(t)
	w.multipathd = func(argv []string) (string, error) {
		if argv[1] == "-c" {
			return "", &CommandError{Argv: argv, Code: 1}
		}
		return "", nil
	}
	w.mu.Lock()
	w.acts["sys/class/scsi_host/host6/scan"] = func(string) {
		w.disk("sys/devices/fc/6", "6:0:3:7", "sd6", "naa.other")
	}
	w.mu.Unlock()
	dev, err := h.Connect(t.Context(), req, prepare(t, fcDriver{h}, req))
	if err != nil || dev.Path != w.root+"/dev/sd5" || exists(w.root+"/dev/sd6") {
		t.Errorf("path %s, %v", dev.Path, err)
	}
}
