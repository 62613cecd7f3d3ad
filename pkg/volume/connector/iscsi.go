package connector

import (
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// iscsiTarget is one way to an iSCSI volume.
type iscsiTarget struct {
	Portal string `json:"portal"` // host:port, [host]:port for IPv6
	IQN    string `json:"iqn"`
	LUN    int    `json:"lun"`
}

func (t iscsiTarget) String() string {
	return fmt.Sprintf("portal %s, target %s, LUN %d", t.Portal, t.IQN, t.LUN)
}

// chap is a name and password for CHAP; both empty when not asked for.
type chap struct{ user, password string }

// iscsiName is what RFC 3720 lets an iSCSI name be; none can be mistaken for an
// option or a path.
var iscsiName = regexp.MustCompile(`^(iqn|eui|naa)\.[A-Za-z0-9.:_-]+$`)

// iscsiTargets reads the ways to an iSCSI volume in the order they are to be
// tried: the lists of a multipath connection, else the single one (the keys are
// those of os-brick's InitiatorConnector).
func iscsiTargets(i info) ([]iscsiTarget, error) {
	portals, iqns, luns := i.strs("target_portals"), i.strs("target_iqns"), i.list("target_luns")
	if len(portals) == 0 || len(iqns) == 0 {
		portal, err := i.need("target_portal")
		if err != nil {
			return nil, err
		}
		iqn, err := i.need("target_iqn")
		if err != nil {
			return nil, err
		}
		portals, iqns, luns = []string{portal}, []string{iqn}, nil
	}
	if len(iqns) != len(portals) || len(luns) > 0 && len(luns) != len(portals) {
		return nil, failure.Invalid("%d target_portals, %d target_iqns and %d target_luns do not go together",
			len(portals), len(iqns), len(luns))
	}
	out := make([]iscsiTarget, len(portals))
	for n, portal := range portals {
		if !iscsiName.MatchString(iqns[n]) {
			return nil, failure.Invalid("target_iqn %q is no iSCSI name", iqns[n])
		}
		host, port, err := net.SplitHostPort(portal)
		if err != nil { // no port
			host, port = strings.Trim(portal, "[]"), "3260"
		}
		if !hostName.MatchString(host) || !portNumber.MatchString(port) {
			return nil, failure.Invalid("target_portal %q is not an address and port", portal)
		}
		var lun any = 0
		switch {
		case len(luns) > 0:
			lun = luns[n]
		case i["target_lun"] != nil:
			lun = i["target_lun"]
		}
		l, ok := number(lun)
		if !ok {
			return nil, failure.Invalid("target_lun %v is not a number", lun)
		}
		out[n] = iscsiTarget{net.JoinHostPort(host, port), iqns[n], l}
	}
	return out, nil
}

// hostName matches a name or an address of either kind, and no option.
var (
	hostName   = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9._:%-]*$`)
	portNumber = regexp.MustCompile(`^[0-9]{1,5}$`)
)

// iscsiCHAP reads the login of the given kind: "auth" for the session,
// "discovery_auth" for asking a portal for its targets.
func iscsiCHAP(i info, kind string) (chap, error) {
	switch m := i.str(kind + "_method"); strings.ToUpper(m) {
	case "", "NONE":
		return chap{}, nil
	case "CHAP":
	default:
		return chap{}, failure.Of(volume.ErrUnsupported, "%s_method is %q, and only CHAP is known", kind, m)
	}
	c := chap{i.str(kind + "_username"), i.str(kind + "_password")}
	if c.user == "" || c.password == "" {
		return chap{}, failure.Invalid("%s_method is CHAP, but the connection says no %[1]s_username or no %[1]s_password", kind)
	}
	if strings.ContainsAny(c.user+c.password, "\n\r\x00") {
		return chap{}, failure.Invalid("a CHAP name or password of several lines")
	}
	return c, nil
}

// iscsiNodes serves an iSCSI volume by libiscsi. Nothing is discovered, as the
// connection names the target, so a discovery login is not used.
func iscsiNodes(h *Host, conn volume.Connection, readOnly bool) (stack, error) {
	i := info(conn.Data)
	targets, err := iscsiTargets(i)
	if err != nil {
		return stack{}, err
	}
	login, err := iscsiCHAP(i, "auth")
	if err != nil {
		return stack{}, err
	}
	name, err := h.initiator()
	if err != nil {
		return stack{}, err
	}
	s := stack{}
	for _, t := range targets {
		n := args{
			"driver": "iscsi", "transport": "tcp", "portal": t.Portal, "target": t.IQN, "lun": t.LUN,
			"initiator-name": name,
		}
		if login != (chap{}) {
			n["user"], n["password-secret"] = login.user, "chap"
			s.secrets = map[string][]byte{"chap": []byte(login.password)}
		}
		s.candidates = append(s.candidates, candidate{
			name: t.String(), dial: []string{t.Portal}, nodes: []args{protocolNode(readOnly, n)},
		})
	}
	return s, nil
}
