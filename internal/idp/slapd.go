package idp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoSlapd says that OpenLDAP's programs are not installed; its message names the Debian packages.
var ErrNoSlapd = errors.New("slapd and ldapmodify are needed: apt-get install slapd ldap-utils")

const (
	ldapSuffix   = "dc=example,dc=com"
	ldapAdmin    = "cn=admin," + ldapSuffix
	ldapPassword = "admin"
	// ldapNobody keeps groups alive when the last person leaves: groupOfNames must have a member.
	ldapNobody = "cn=nobody," + ldapSuffix
)

// Slapd is a running OpenLDAP server of Debian's slapd package: people are inetOrgPerson in ou=people, groups are
// groupOfNames in ou=groups, below dc=example,dc=com.
type Slapd struct {
	addr    netip.AddrPort
	folder  string
	socket  string // ldapi:// URL, reachable from every network namespace
	modify  string // path of ldapmodify
	process Process
}

// StartSlapd starts slapd at place.Addr with the people and their groups, and returns when it has them. place.TLS is
// not used: Dex and slapd stand on one host. Without the packages: ErrNoSlapd.
func StartSlapd(ctx context.Context, place Place, users Users) (*Slapd, error) {
	slapd, err := exec.LookPath("slapd")
	if err != nil {
		slapd, err = exec.LookPath("/usr/sbin/slapd") // not in everybody's PATH
	}
	modify, missing := exec.LookPath("ldapmodify")
	if err != nil || missing != nil {
		return nil, ErrNoSlapd
	}
	if place, err = place.complete(); err != nil {
		return nil, err
	}
	s := &Slapd{modify: modify, addr: place.Addr}
	if err := s.start(ctx, place, slapd); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.apply(ctx, "-a", entries(users)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// RunSlapd is StartSlapd on loopback for a test, which fails when the packages are missing.
func RunSlapd(tb TB, users Users) *Slapd {
	tb.Helper()
	s, err := StartSlapd(tb.Context(), Place{Folder: tb.TempDir()}, users)
	if err != nil {
		tb.Fatalf("start slapd: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stop slapd: %v", err)
		}
	})
	return s
}

func (s *Slapd) start(ctx context.Context, place Place, program string) error {
	var err error
	// A folder of its own, with a short name: the path of a unix socket has to fit in 107 bytes.
	if s.folder, err = os.MkdirTemp("", "ldap-*"); err != nil {
		return err
	}
	data := filepath.Join(s.folder, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	config := filepath.Join(s.folder, "slapd.conf")
	text := fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile %[1]s/slapd.pid
argsfile %[1]s/slapd.args
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
maxsize 16777216
suffix %[2]q
rootdn %[3]q
rootpw %[4]s
directory %[5]s
`, s.folder, ldapSuffix, ldapAdmin, ldapPassword, data)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	socket := filepath.Join(s.folder, "ldapi")
	s.socket = "ldapi://" + strings.ReplaceAll(socket, "/", "%2F")
	listen := fmt.Sprintf("ldap://%s/ %s", s.addr, s.socket)
	if s.process, err = place.Start(ctx, "slapd", program, "-d", "0", "-f", config, "-h", listen); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return await(ctx, s.process, "slapd", func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Close stops slapd and removes its data.
func (s *Slapd) Close() error {
	var err error
	if s.process != nil {
		err = stop(s.process)
	}
	return errors.Join(err, os.RemoveAll(s.folder))
}

// AddToGroup makes a person a member of an existing group; being one already is an error.
func (s *Slapd) AddToGroup(ctx context.Context, username, group string) error {
	return s.member(ctx, "add", username, group)
}

// RemoveFromGroup ends a membership; not being a member is an error.
func (s *Slapd) RemoveFromGroup(ctx context.Context, username, group string) error {
	return s.member(ctx, "delete", username, group)
}

func (s *Slapd) member(ctx context.Context, change, username, group string) error {
	return s.apply(ctx, "", fmt.Sprintf("dn: %s\nchangetype: modify\n%s: member\nmember: %s\n",
		groupDN(group), change, personDN(username)))
}

// RemovePerson deletes a person, who keeps standing in groups as directories often do.
func (s *Slapd) RemovePerson(ctx context.Context, username string) error {
	return s.apply(ctx, "", fmt.Sprintf("dn: %s\nchangetype: delete\n", personDN(username)))
}

// apply runs ldapmodify, which reads LDIF.
func (s *Slapd) apply(ctx context.Context, flag, ldif string) error {
	args := []string{"-x", "-H", s.socket, "-D", ldapAdmin, "-w", ldapPassword}
	if flag != "" {
		args = append(args, flag)
	}
	cmd := exec.CommandContext(ctx, s.modify, args...)
	cmd.Stdin = strings.NewReader(ldif)
	cmd.Env = append(os.Environ(), "LDAPNOINIT=1") // not this machine's ldap.conf
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ldapmodify: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

func personDN(username string) string { return "uid=" + username + ",ou=people," + ldapSuffix }
func groupDN(name string) string      { return "cn=" + name + ",ou=groups," + ldapSuffix }

// entries is the LDIF of a directory with these people. Names are plain words: nothing is escaped.
func entries(users Users) string {
	var b strings.Builder
	fmt.Fprintf(&b, "dn: %s\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n", ldapSuffix)
	for _, ou := range []string{"people", "groups"} {
		fmt.Fprintf(&b, "dn: ou=%s,%s\nobjectClass: organizationalUnit\nou: %s\n\n", ou, ldapSuffix, ou)
	}
	var groups []string
	members := map[string][]string{}
	for _, u := range users {
		u = u.complete()
		fmt.Fprintf(&b, "dn: %s\nobjectClass: inetOrgPerson\nuid: %s\ncn: %s\nsn: %s\nmail: %s\nuserPassword: %s\n\n",
			personDN(u.Username), u.Username, u.Username, u.Username, u.Email, u.Password)
		for _, g := range u.Groups {
			if members[g] == nil {
				groups = append(groups, g)
			}
			members[g] = append(members[g], u.Username)
		}
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "dn: %s\nobjectClass: groupOfNames\ncn: %s\nmember: %s\n", groupDN(g), g, ldapNobody)
		for _, m := range members[g] {
			fmt.Fprintf(&b, "member: %s\n", personDN(m))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// connector is Dex's configuration for this directory.
func (s *Slapd) connector() object {
	return object{
		"type": "ldap", "id": "ldap", "name": "Directory",
		"config": object{
			"host": s.addr.String(), "insecureNoSSL": true, "bindDN": ldapAdmin, "bindPW": ldapPassword,
			"userSearch": object{
				"baseDN": "ou=people," + ldapSuffix, "filter": "(objectClass=inetOrgPerson)", "username": "uid",
				"idAttr": "uid", "emailAttr": "mail", "nameAttr": "cn", "preferredUsernameAttr": "uid",
			},
			"groupSearch": object{
				"baseDN": "ou=groups," + ldapSuffix, "filter": "(objectClass=groupOfNames)", "nameAttr": "cn",
				"userMatchers": []object{{"userAttr": "DN", "groupAttr": "member"}},
			},
		},
	}
}
