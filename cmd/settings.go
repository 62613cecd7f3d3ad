package cmd

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/viper"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/flavor"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Settings are what the configuration file, the environment and the flags set, in
// that order, each over the one before.
type Settings struct {
	StateDir  string
	RunDir    string
	Backend   string
	Cloud     string
	Service   string
	Transport string
	Group     string
	Pool      string
	Connect   string
	Timeout   time.Duration
	StopTime  time.Duration
	HostID    string
	HostName  string
	Seccomp   string
	LXCFS     string
	DirectIO  string
	LogBytes  int64
	Debug     bool
	NoTokens  bool
	IDBase    uint32
	MaxLocal  int
	Flavors   []flavor.Flavor
}

// setting is a key of the configuration, its variable, default, and flag's help.
type setting struct {
	key, env string
	value    any
	help     string              // empty: no flag
	to       func(*Settings) any // where the value goes
}

var settings = []setting{
	{"state-dir", "LXCBOOT_STATE_DIR", usualStateDir, "where images, volumes and instances are kept", func(s *Settings) any { return &s.StateDir }},
	{"run-dir", "LXCBOOT_RUN_DIR", state.DefaultRunDir, "where roots are mounted for the moment of a start", func(s *Settings) any { return &s.RunDir }},
	{"backend", "LXCBOOT_BACKEND", "auto", "volume store: auto, local or openstack", func(s *Settings) any { return &s.Backend }},
	{"os-cloud", "OS_CLOUD", "", "entry of clouds.yaml", func(s *Settings) any { return &s.Cloud }},
	{"os-service-cloud", "LXCBOOT_OS_SERVICE_CLOUD", "", "", func(s *Settings) any { return &s.Service }},
	{"transport", "LXCBOOT_TRANSPORT", "auto", "how volumes of a cloud are reached: auto, kernel or userspace", func(s *Settings) any { return &s.Transport }},
	{"volume-group", "LXCBOOT_VOLUME_GROUP", "", "", func(s *Settings) any { return &s.Group }},
	{"thin-pool", "LXCBOOT_THIN_POOL", "", "", func(s *Settings) any { return &s.Pool }},
	{"connect", "LXCBOOT_CONNECT", lxc.DefaultURI, "libvirt to connect to", func(s *Settings) any { return &s.Connect }},
	{"host-id", "LXCBOOT_HOST_ID", "", "what tells this host from others (default: its machine id)", func(s *Settings) any { return &s.HostID }},
	{"host", "LXCBOOT_HOST", "", "", func(s *Settings) any { return &s.HostName }},
	{"seccomp", "LXCBOOT_SECCOMP", "on", "", func(s *Settings) any { return &s.Seccomp }},
	{"lxcfs", "LXCBOOT_LXCFS", "/var/lib/lxcfs", "", func(s *Settings) any { return &s.LXCFS }},
	{"direct-io", "LXCBOOT_DIRECT_IO", "off", "", func(s *Settings) any { return &s.DirectIO }},
	{"timeout", "LXCBOOT_TIMEOUT", "10m", "how long to wait for volumes, and for another process that works on an instance", func(s *Settings) any { return &s.Timeout }},
	{"stop-timeout", "LXCBOOT_STOP_TIMEOUT", "60s", "", func(s *Settings) any { return &s.StopTime }},
	{"console-log-bytes", "LXCBOOT_CONSOLE_LOG_BYTES", console.DefaultLogBytes, "", func(s *Settings) any { return &s.LogBytes }},
	{"no-token-cache", "LXCBOOT_NO_TOKEN_CACHE", false, "sign in to the cloud anew, and keep no token for the next command", func(s *Settings) any { return &s.NoTokens }},
	{"debug", "LXCBOOT_DEBUG", false, "tell on stderr what is asked of the cloud and of libvirt, and which commands are run", func(s *Settings) any { return &s.Debug }},
	{"idmap-base", "LXCBOOT_IDMAP_BASE", 0, "", func(s *Settings) any { return &s.IDBase }},
	{"max-local-block-devices", "LXCBOOT_MAX_LOCAL_BLOCK_DEVICES", 3, "", func(s *Settings) any { return &s.MaxLocal }},
}

// choices are the settings that have a few values.
var choices = map[string][]string{
	"backend":   {"auto", "local", "openstack"},
	"transport": {"auto", "kernel", "userspace"},
	"seccomp":   {"on", "off"},
	"direct-io": {"on", "off"},
}

const (
	usualStateDir = "/var/lib/lxcboot"
	defaultConfig = "/etc/lxcboot/config.yaml"
	configEnv     = "LXCBOOT_CONFIG"

	// The ids of containers, 65,536 each, follow the first one: none that a user of the
	// host may have, and none beyond 32 bits.
	minIDBase = 1 << 16
	maxIDBase = 1<<32 - 2<<16
)

// bindSettings makes the flags of the settings, and tells viper of them.
func (a *App) bindSettings(root *cobra.Command) {
	a.v = viper.New()
	flags := root.PersistentFlags()
	flags.String("config", "", "configuration file (default "+defaultConfig+", where it is)")
	for _, s := range settings {
		a.v.SetDefault(s.key, s.value)
		_ = a.v.BindEnv(s.key, s.env)
		if b, ok := s.value.(bool); ok {
			flags.Bool(s.key, b, s.help)
		} else if s.help != "" {
			flags.String(s.key, fmt.Sprint(s.value), s.help)
		}
	}
	for name, values := range choices {
		_ = root.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

// noSetting is the annotation of a flag that has a setting's name, and is another thing.
const noSetting = "no setting"

// load reads the settings.
func (a *App) load(c *cobra.Command) error {
	path := os.Getenv(configEnv)
	if f := c.Flag("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	a.config = path
	given := path != ""
	if !given {
		path = defaultConfig
	}
	a.v.SetConfigType("yaml")
	data, _, err := readInput(c.Context(), path, maxConfig)
	if err != nil && (given || !errors.Is(err, os.ErrNotExist)) {
		return inputError("cannot read the configuration "+path, err)
	}
	if err := a.v.ReadConfig(bytes.NewReader(data)); err != nil {
		err = cmp.Or(errors.Unwrap(err), err) // without viper's words
		return failure.Invalid("the configuration %s is not valid YAML: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := a.checkKeys(path); err != nil {
		return err
	}
	a.configured = data
	var s Settings
	for _, x := range settings {
		// The flags of this command: several may have one of the same name, and the
		// hidden ones of nova boot are no settings.
		if f := c.Flag(x.key); f != nil && !f.Hidden && f.Annotations[noSetting] == nil {
			a.v.SetDefault(x.key, f.DefValue)
			_ = a.v.BindPFlag(x.key, f)
		}
		// A key with nothing after it is as one that is not there.
		if v := a.v.Get(x.key); v != nil {
			if err := assign(x.to(&s), v); err != nil {
				return failure.Invalid("%s (or %s): %v", x.key, x.env, err)
			}
		}
	}
	if s.Flavors, err = flavor.Parse(a.v.Get("flavors")); err == nil {
		_, err = flavor.New(s.Flavors)
	}
	if err != nil {
		return failure.Invalid("the configuration %s: %v", path, err)
	}
	a.settings = s
	return s.check()
}

// checkKeys refuses keys in the configuration that there are not: one that is
// misspelt would be passed over otherwise.
func (a *App) checkKeys(path string) error {
	known := []string{"flavors"}
	for _, s := range settings {
		known = append(known, s.key)
	}
	var unknown []string
	for _, key := range a.v.AllKeys() {
		if !slices.Contains(known, key) {
			unknown = append(unknown, strconv.Quote(key))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	what := "unknown key"
	if len(unknown) > 1 {
		what += "s"
	}
	return failure.Invalid("%s %s in the configuration %s; the keys are %s", what, strings.Join(unknown, ", "), path, strings.Join(known, ", "))
}

// assign reads a value into where it goes. A number of the configuration and the
// text of a variable or flag are read alike, and nothing is rounded or cut.
func assign(to, value any) error {
	switch value.(type) {
	case string, bool, int, int64, uint32, uint64, float64:
	default:
		return fmt.Errorf("%v is not a single value", value)
	}
	text := fmt.Sprint(value)
	var err error
	var n int64
	switch to := to.(type) {
	case *string:
		*to = text
		return nil
	case *bool:
		if *to, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		return nil
	case *time.Duration:
		if *to, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%q is not a time, as 90s or 10m", text)
		}
		return nil
	case *int64:
		*to, err = strconv.ParseInt(text, 10, 64)
	case *uint32:
		n, err = strconv.ParseInt(text, 10, 64)
		if err == nil && (n < 0 || n > math.MaxUint32) {
			return fmt.Errorf("%s is not between 0 and %d", text, uint32(math.MaxUint32))
		}
		*to = uint32(n)
	case *int:
		*to, err = strconv.Atoi(text)
	}
	if err != nil {
		return fmt.Errorf("%q is not a whole number", text)
	}
	return nil
}

// lvmName is what LVM takes for a name.
var lvmName = regexp.MustCompile(`^[A-Za-z0-9+_.][A-Za-z0-9+_.-]*$`)

// thinPool is where volumes are made, as the store wants it; empty: they are files.
func (s Settings) thinPool() string {
	if s.Pool == "" {
		return ""
	}
	return s.Group + "/" + s.Pool
}

// check holds the settings to what they can be.
func (s Settings) check() error {
	for name, value := range map[string]string{"backend": s.Backend, "transport": s.Transport, "seccomp": s.Seccomp, "direct-io": s.DirectIO} {
		if !slices.Contains(choices[name], value) {
			return failure.Invalid("%s %q is not one of %s", name, value, strings.Join(choices[name], ", "))
		}
	}
	switch {
	case !strings.HasPrefix(s.StateDir, "/"):
		return failure.Invalid("the state directory %q is not an absolute path", s.StateDir)
	case !strings.HasPrefix(s.RunDir, "/"):
		return failure.Invalid("the run directory %q is not an absolute path", s.RunDir)
	case !strings.HasPrefix(s.Connect, "lxc:") && !strings.HasPrefix(s.Connect, "lxc+"):
		return failure.Invalid("--connect (or LXCBOOT_CONNECT) %q is not libvirt's LXC driver: leave it out, or say %s", s.Connect, lxc.DefaultURI)
	case s.Timeout <= 0:
		return failure.Invalid("timeout (or LXCBOOT_TIMEOUT) %v: it must be longer than nothing, as 90s or 10m", s.Timeout)
	case s.StopTime <= 0:
		return failure.Invalid("stop-timeout (or LXCBOOT_STOP_TIMEOUT) %v: it must be longer than nothing, as 90s or 10m", s.StopTime)
	case s.Group != "" && s.Pool == "":
		return failure.Invalid("volume-group %q (or LXCBOOT_VOLUME_GROUP) is set, and thin-pool is not: volumes are made in a thin pool only, since other logical volumes show what was on the disk before; name one of the group's, or make it with 'lvcreate --type thin-pool --extents 90%%FREE --name lxcboot %s'", s.Group, s.Group)
	case s.Group == "" && s.Pool != "":
		return failure.Invalid("thin-pool %q (or LXCBOOT_THIN_POOL) is set, and volume-group is not: name the volume group that it is in", s.Pool)
	case s.Pool != "" && !(lvmName.MatchString(s.Group) && lvmName.MatchString(s.Pool)):
		return failure.Invalid("volume-group %q and thin-pool %q: letters, digits and + _ . - are what names of LVM have", s.Group, s.Pool)
	case s.LogBytes < 4096:
		return failure.Invalid("console-log-bytes %d is less than 4096", s.LogBytes)
	case s.IDBase != 0 && s.IDBase < minIDBase || s.IDBase > maxIDBase:
		return failure.Invalid("idmap-base %d is not between %d and %d", s.IDBase, minIDBase, maxIDBase)
	}
	return nil
}
