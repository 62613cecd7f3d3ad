package connector

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// rbdVolume is a Ceph image and how to reach it.
type rbdVolume struct {
	pool, namespace, image string
	user                   string // without "client."; empty: no authentication
	key                    string
	conf                   string   // ceph.conf, empty when there is none
	monitors               []string // host:port
}

// named names the image to Ceph's tools.
func (v rbdVolume) named() []string {
	argv := []string{"--pool", v.pool, "--image", v.image}
	if v.namespace != "" {
		argv = append(argv, "--namespace", v.namespace)
	}
	return argv
}

// client tells Ceph's tools where the cluster is, and as whom they speak to it: by the
// configuration there is, or by an empty one, and a file that the key is in.
func (v rbdVolume) client(empty, key string) []string {
	argv := []string{"--conf", cmp.Or(v.conf, empty)}
	if len(v.monitors) > 0 {
		argv = append(argv, "--mon_host", strings.Join(v.monitors, ","))
	}
	if v.user != "" {
		argv = append(argv, "--id", v.user, "--keyfile", key)
	}
	return argv
}

// cephName is what a pool, image, user or cluster may be called here; none can be
// mistaken for an option or a path.
var cephName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)

// rbdConnection reads a connection of Cinder's RBD driver, and finds the key
// where Ceph's own clients look.
func rbdConnection(h *Host, i info) (rbdVolume, error) {
	name, err := i.need("name")
	if err != nil {
		return rbdVolume{}, err
	}
	v := rbdVolume{}
	switch parts := strings.Split(name, "/"); len(parts) {
	case 2:
		v.pool, v.image = parts[0], parts[1]
	case 3:
		v.pool, v.namespace, v.image = parts[0], parts[1], parts[2]
	}
	if !cephName.MatchString(v.pool) || !cephName.MatchString(v.image) || v.namespace != "" && !cephName.MatchString(v.namespace) {
		return rbdVolume{}, failure.Invalid("name %q is not POOL/IMAGE", name)
	}
	hosts, ports := i.strs("hosts"), i.strs("ports")
	if len(ports) != len(hosts) {
		return rbdVolume{}, failure.Invalid("%d hosts and %d ports of Ceph monitors do not go together", len(hosts), len(ports))
	}
	for n, host := range hosts {
		host = strings.Trim(host, "[]")
		if !hostName.MatchString(host) || !portNumber.MatchString(ports[n]) {
			return rbdVolume{}, failure.Invalid("the Ceph monitor %q, port %q, is no address", host, ports[n])
		}
		v.monitors = append(v.monitors, net.JoinHostPort(host, ports[n]))
	}
	cluster := i.str("cluster_name")
	if cluster == "" {
		cluster = "ceph"
	}
	user := i.str("auth_username")
	if !cephName.MatchString(cluster) || user != "" && !cephName.MatchString(user) {
		return rbdVolume{}, failure.Invalid("the Ceph cluster %q or its user %q has no plain name", cluster, user)
	}
	if v.conf, err = h.cephConf(cluster); err != nil {
		return rbdVolume{}, err
	}
	if v.conf == "" && len(v.monitors) == 0 {
		return rbdVolume{}, failure.Invalid("the connection names no Ceph monitor, and there is no /etc/ceph/%s.conf", cluster)
	}
	if enabled, said := i["auth_enabled"]; said && enabled != nil && !i.boolean("auth_enabled") {
		return v, nil
	}
	if user == "" {
		user = "admin" // as Ceph's clients do
	}
	v.user = user
	v.key, err = h.cephKey(cluster, user, v.conf, i.str("keyring"))
	return v, err
}

// cephConf is the configuration file of the cluster: CEPH_CONF, else the one in
// /etc/ceph; "" when there is none.
func (h *Host) cephConf(cluster string) (string, error) {
	path := os.Getenv("CEPH_CONF")
	asked := path != ""
	if !asked {
		path = h.fs("etc/ceph", cluster+".conf")
	}
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return path, nil
	case errors.Is(err, fs.ErrNotExist) && !asked:
		return "", nil
	default:
		return "", failure.Invalid("the configuration of the Ceph cluster %s: %v", cluster, err)
	}
}

// cephKey finds the key of a Ceph user: in the connection, else in the first
// keyring there is of those where librados looks.
func (h *Host) cephKey(cluster, user, conf, given string) (string, error) {
	if given != "" {
		key, err := keyOf(given, user)
		if err != nil {
			return "", failure.Invalid("the connection's keyring: %v", err)
		}
		return key, nil
	}
	var paths []string
	if p := os.Getenv("CEPH_KEYRING"); p != "" {
		paths = splitList(p)
	} else if p := confKeyring(conf, cluster, user); len(p) > 0 {
		paths = p
	} else {
		for _, name := range []string{cluster + ".client." + user + ".keyring", cluster + ".keyring", "keyring", "keyring.bin"} {
			paths = append(paths, h.fs("etc/ceph", name))
		}
	}
	var errs []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var key string
			if key, err = keyOf(string(b), user); err == nil {
				return key, nil
			}
		}
		errs = append(errs, fmt.Sprintf("%s: %v", p, err))
	}
	detail := ""
	if len(errs) > 0 {
		detail = " (" + strings.Join(errs, "; ") + ")"
	}
	return "", failure.Of(volume.ErrAuth, "no key of the Ceph user client.%s on this host; looked in %s%s; copy its keyring to /etc/ceph/%s.client.%[1]s.keyring",
		user, strings.Join(paths, ", "), detail, cluster)
}

// keyOf takes the key of client.USER out of a keyring's text, or of a text that
// is nothing but a key. With no user, the first key is taken.
func keyOf(text, user string) (string, error) {
	if s := strings.TrimSpace(text); isKey(s) {
		return s, nil
	}
	section := ""
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section, _, _ = strings.Cut(name, "]")
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(k) != "key" || user != "" && section != "client."+user {
			continue
		}
		if v = strings.TrimSpace(v); isKey(v) {
			return v, nil
		}
		return "", errors.New("the key is not in the form of a Ceph key")
	}
	return "", fmt.Errorf("it holds no key of client.%s", user)
}

// isKey says whether s has the form of a Ceph key: a header of 12 bytes and at
// least 16 bytes of key, in base64.
func isKey(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) >= 28
}

// confKeyring reads the option "keyring" of ceph.conf as it holds for the user:
// the nearest section that has it wins.
func confKeyring(conf, cluster, user string) []string {
	b, err := os.ReadFile(conf)
	if err != nil {
		return nil
	}
	found := map[string]string{}
	section := ""
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section, _, _ = strings.Cut(name, "]")
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok && strings.TrimSpace(k) == "keyring" {
			found[section] = strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	for _, s := range []string{"client." + user, "client", "global"} {
		if v := found[s]; v != "" {
			v = strings.NewReplacer("$cluster", cluster, "$name", "client."+user, "$type", "client", "$id", user).Replace(v)
			return splitList(v)
		}
	}
	return nil
}

// splitList splits a list of paths as Ceph writes them.
func splitList(s string) []string {
	paths := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	for i, p := range paths {
		paths[i] = filepath.Clean(p)
	}
	return paths
}

// rbdNodes serves a Ceph image by librbd.
func rbdNodes(h *Host, conn volume.Connection, readOnly bool) (stack, error) {
	v, err := rbdConnection(h, conn.Data)
	if err != nil {
		return stack{}, err
	}
	n := args{"driver": "rbd", "pool": v.pool, "image": v.image}
	if v.namespace != "" {
		n["namespace"] = v.namespace
	}
	if v.conf != "" {
		n["conf"] = v.conf
	}
	if len(v.monitors) > 0 {
		var servers []args
		for _, m := range v.monitors {
			host, port, _ := net.SplitHostPort(m)
			servers = append(servers, args{"host": host, "port": port})
		}
		n["server"] = servers
	}
	s := stack{}
	if v.user == "" {
		n["auth-client-required"] = []string{"none"}
	} else {
		n["user"], n["key-secret"] = v.user, "ceph"
		// QEMU hands librados the secret's bytes in base64, which is the key's form.
		key, err := base64.StdEncoding.DecodeString(v.key)
		if err != nil {
			return stack{}, failure.Of(volume.ErrAuth, "the key of client.%s is not in the form of a Ceph key", v.user)
		}
		s.secrets = map[string][]byte{"ceph": key}
	}
	s.candidates = []candidate{{
		name:  "Ceph image " + v.pool + "/" + v.image,
		dial:  v.monitors,
		nodes: []args{protocolNode(readOnly, n)},
		doubt: "the monitors answer, so the key of client." + v.user + " may not be the cluster's, or its OSDs are down",
	}}
	return s, nil
}
