//go:build cluster

package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// serveCloud lets the hosts reach the lab of test/openstack, which serves the machine's
// loopback alone: its three ports, for the service "cloud", and its directory, where its
// NFS exports are.
func (c *Cluster) serveCloud() error {
	at, err := url.Parse(os.Getenv("OS_AUTH_URL"))
	if err != nil {
		return err
	}
	first, err := strconv.Atoi(at.Port())
	if err != nil {
		return fmt.Errorf("OS_AUTH_URL=%s: no port", at)
	}
	sockets := filepath.Join(c.Shared(), "cloud")
	if err := os.Mkdir(sockets, 0o755); err != nil {
		return err
	}
	for port := first; port < first+3; port++ { // Keystone, Glance, Cinder
		l, err := net.Listen("unix", filepath.Join(sockets, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		c.t.Cleanup(func() { l.Close() })
		go forward(l, fmt.Sprintf("127.0.0.1:%d", port))
	}
	// JSON is YAML.
	clouds, err := json.Marshal(map[string]any{"clouds": map[string]any{"lab": map[string]any{
		"region_name": os.Getenv("OS_REGION_NAME"),
		"auth": map[string]string{
			"auth_url": at.String(), "username": os.Getenv("OS_USERNAME"), "password": os.Getenv("OS_PASSWORD"),
			"project_name": os.Getenv("OS_PROJECT_NAME"), "user_domain_name": "Default", "project_domain_name": "Default",
		},
	}}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Shared(), "clouds.yaml"), clouds, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, "same"), []byte(os.Getenv("LAB_DIR")+"\n"), 0o644)
}

// forward passes connections on until the listener is closed.
func forward(l net.Listener, to string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			conn, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer conn.Close()
			go func() {
				io.Copy(conn, from)
				conn.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(from, conn)
		}()
	}
}

// TestCinder: a drain, and a host that dies, where the volume is in a real Cinder, and the
// hosts are plain members of the project.
func TestCinder(t *testing.T) {
	if os.Getenv("OS_AUTH_URL") == "" || os.Getenv("LAB_DIR") == "" {
		t.Skip("no cloud is set: test/openstack/run has one")
	}
	p := upPacemaker(t, "cloud")
	n1 := p.Hosts[0]
	p.configure(web1)
	b, d := p.moves()

	// What b still has on record is worth nothing, and leaves the volume alone.
	if code, out := b.Run(t.Context(), "lxcboot", "start", "web1"); code != 4 {
		t.Errorf("%s starts what it has on record: exit code %d\n%s", b.Name, code, out)
	}
	b.Must("lxcboot", "delete", "web1")
	p.marker(d, "more")
	n1.Must("crm_resource", "-Q", "-r", "web1", "-m", "-p", "target-role", "-v", "Stopped")
	p.Wait("web1 is stopped", func() (bool, string) {
		out := d.Must("lxcboot", "list", "-f", "value")
		return out == "", out
	})
	// The cloud outlives the hosts.
	n1.Must("lxcboot", "volume", "delete", "web1")
	n1.Must("lxcboot", "image", "delete", "busybox")
}
