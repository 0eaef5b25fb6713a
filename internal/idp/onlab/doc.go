// Package onlab runs the OpenID providers of package idp on hosts of a lab. The package is for Linux; elsewhere it is
// empty.
package onlab
